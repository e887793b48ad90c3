"""Files of campaigns, one a row: CSV with a header, or a JSON object per line.

A column is named by the path of its field, such as `bid_micros`, `targeting.countries` or `creatives[0].title`; an
empty cell leaves its field out. Rows become the plain values of `serving.campaigns.input.CampaignInput`; whether they
make a campaign is checked elsewhere.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin

import msgspec

from mechanism.errors import InputError, whole_number
from serving.campaigns.input import CampaignInput

MOST_ROWS = 1_000
MOST_FAULTS = 20
SEPARATOR = "|"
"""Between the values of a cell that holds a list."""
_STEP = re.compile(r"([a-z_]+)(?:\[(\d{1,3})\])?")
_WHOLE = re.compile(r"-?\d{1,19}")
_Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file by line, from 1: their plain values, or what is wrong with them."""

    given: dict[int, Any] = field(default_factory=dict)
    faults: dict[int, list[InputError]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.given) + len(self.faults)


@dataclass(frozen=True, slots=True)
class _Column:
    """Where a column's cells go, and what they become: text, a whole number, or a list of either."""

    path: _Path
    is_number: bool
    is_list: bool


def read_jsonl(body: bytes) -> Rows:
    """Read one JSON object per line; blank lines are skipped. Too many lines, or none, are an InputError."""
    rows = Rows()
    for line, text in enumerate(body.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            raw = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            fault = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            rows.faults[line] = [InputError("line", _text(text), f"it is not JSON: {fault}")]
        else:
            if isinstance(raw, dict):
                rows.given[line] = raw
            else:
                rows.faults[line] = [InputError("line", _text(text), "write one JSON object")]
        _check_count(rows)
    return _some(rows)


def read_csv(body: bytes) -> Rows:
    """Read CSV under a header; a row's line is the one on which it begins.

    Raises:
        InputError: if the file is not UTF-8 or CSV, its header is wrong, or it has no rows or too many.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("file", f"byte {error.start}", "save it as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, header = Rows(), dict[str, _Column]()
    line = 1
    try:
        for cells in reader:
            if cells and not header:
                header = _header(cells, line)
            elif cells:
                _add(rows, line, header, cells)
                _check_count(rows)
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"line {line}", "", f"it is not CSV: {error}") from error
    return _some(rows)


def _header(names: list[str], line: int) -> dict[str, _Column]:
    header: dict[str, _Column] = {}
    for name in map(str.strip, names):
        column = _column(name)
        if column is None:
            remedy = "use paths of a campaign's fields, such as name, targeting.countries or creatives[0].title"
            raise InputError(f"line {line}", name, remedy)
        if name in header:
            raise InputError(f"line {line}", name, "name each column once")
        header[name] = column
    return header


def _add(rows: Rows, line: int, header: dict[str, _Column], cells: list[str]) -> None:
    if len(cells) != len(header):
        fault = InputError("line", f"{len(cells)} cells", f"give {len(header)}, as the header has")
        rows.faults[line] = [fault]
        return
    raw: dict[Any, Any] = {}
    faults: list[InputError] = []
    for (name, column), cell in zip(header.items(), map(str.strip, cells), strict=True):
        if not cell:
            continue
        parts = [part.strip() for part in cell.split(SEPARATOR)] if column.is_list else [cell]
        if column.is_number and not all(_WHOLE.fullmatch(part) for part in parts):
            faults.append(InputError(name, cell, whole_number(name)))
            continue
        values = [int(part) for part in parts] if column.is_number else parts
        place = raw
        for step in column.path[:-1]:
            place = place.setdefault(step, {})
        place[column.path[-1]] = values if column.is_list else values[0]
    if faults:
        rows.faults[line] = faults[:MOST_FAULTS]
        return
    try:
        rows.given[line] = _nested(raw, "")
    except InputError as gap:
        rows.faults[line] = [gap]


def _nested(raw: Any, place: str) -> Any:
    """Turn mappings by number into lists.

    Raises:
        InputError: if a list has a gap, which would move the columns behind it.
    """
    if not isinstance(raw, dict):
        return raw
    if not raw or not all(isinstance(step, int) for step in raw):
        return {name: _nested(value, f"{place}.{name}".lstrip(".")) for name, value in raw.items()}
    for number, step in enumerate(sorted(raw)):
        if number != step:
            raise InputError(f"{place}[{number}]", "", f"fill it before {place}[{step}]")
    return [_nested(raw[step], f"{place}[{step}]") for step in sorted(raw)]


@lru_cache(maxsize=1_024)
def _column(name: str) -> _Column | None:
    """Return the column of a path in `CampaignInput`; None if it leads to no value that a cell can hold."""
    kind: Any = CampaignInput
    path: list[str | int] = []
    for step in name.split("."):
        found = _STEP.fullmatch(step)
        if found is None or not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return None
        fields = {one.encode_name: one.type for one in msgspec.structs.fields(kind)}
        if found[1] not in fields:
            return None
        kind = _given(fields[found[1]])
        path.append(found[1])
        if found[2] is not None:
            if get_origin(kind) not in (list, tuple):
                return None
            kind = get_args(kind)[0]
            path.append(int(found[2]))
    is_list = get_origin(kind) in (list, tuple)
    kind = get_args(kind)[0] if is_list else kind
    if not isinstance(kind, type) or issubclass(kind, msgspec.Struct):
        return None
    return _Column(tuple(path), kind is int, is_list)


def _given(kind: Any) -> Any:
    """Return a field's type without None."""
    if get_origin(kind) in (Union, UnionType):
        return next(option for option in get_args(kind) if option is not NoneType)
    return kind


def _check_count(rows: Rows) -> None:
    if len(rows) > MOST_ROWS:
        raise InputError("file", f"more than {MOST_ROWS} rows", f"send {MOST_ROWS} campaigns at most in one file")


def _some(rows: Rows) -> Rows:
    if not len(rows):
        raise InputError("file", "no rows", "write one campaign a row; CSV has a header above them")
    return rows


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
