"""Rows of files with their line numbers: CSV, TSV, JSONL and plain lines in UTF-8.

A row that cannot be read (bytes that are not UTF-8, an open quote, a wrong number of fields, broken JSON) is refused in
the report, and reading continues with the next line. The meaning of the fields is left to the importers.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mechanism.errors import InputError
from simulator.importers.dataset import ReportBuilder, RowIssue

LONGEST_RECORD = 50
"""Most lines of one quoted CSV record: an open quote must not consume the rest of a file."""
NOT_UTF8 = "save the file as UTF-8"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    `number` counts the data rows of its file from 1, refused ones included, so that ids derived from it do not
    change when another row is corrected.
    """

    file: str
    line: int
    number: int
    fields: Mapping[str, object]

    def issue(self, field: str, value: object, remedy: str) -> RowIssue:
        """Return an issue of this row, for the report."""
        shown = _shown(value) if isinstance(value, str) else repr(value)
        return RowIssue(self.file, self.line, _shown(field), shown, remedy)

    def fault(self, error: InputError) -> RowIssue:
        """Return the issue of a row whose content an error refuses."""
        return self.issue(error.place, error.value, error.remedy)

    def text(self, field: str) -> str:
        """Return a text field; absent and null count as empty.

        Raises:
            InputError: if the value has another type or is not UTF-8; its place is the field.
        """
        value = self.fields.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(field, value, "write text in quotes")
        if not is_utf8(value):
            raise InputError(field, _shown(value), NOT_UTF8)
        return value


def read_lines(path: Path) -> list[str]:
    """Read the lines of a file without their ends; bytes that are not UTF-8 become surrogates.

    Raises:
        InputError: if the file cannot be read.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(str(path), error.strerror, "give a readable file") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def text_rows(path: Path, field: str, report: ReportBuilder) -> Iterator[Row]:
    """Yield one row a line, its stripped text under `field`; refuse empty lines and lines that are not UTF-8."""
    report.open(path.name)
    for number, line in enumerate(read_lines(path), start=1):
        report.read(path.name)
        row = Row(path.name, number, number, {field: line.strip()})
        if not line.strip():
            report.refuse(row.issue(field, line, "remove the empty line"))
        elif not is_utf8(line):
            report.refuse(row.issue(field, _shown(line), NOT_UTF8))
        else:
            yield row


def csv_rows(
    path: Path,
    required: Sequence[str],
    optional: Sequence[str],
    report: ReportBuilder,
    *,
    multiline: bool = True,
    delimiter: Literal[",", "\t"] = ",",
) -> Iterator[Row]:
    """Yield the rows of a file of separated values with a header line; fields are stripped strings.

    Columns that are neither required nor optional are reported as ignored. `multiline` allows line breaks inside quoted
    fields.

    Raises:
        InputError: if the header lacks a `required` column or has a column twice.
    """
    report.open(path.name)
    lines = read_lines(path)
    if not lines:
        raise InputError(f"{path}:1", "", f"begin the file with the header {delimiter.join(required)}")
    columns = [name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=delimiter), [])]
    missing = [name for name in required if name not in columns]
    separator = "commas" if delimiter == "," else "tabs"
    if missing or len(set(columns)) != len(columns):
        fault = (
            f"add the columns {', '.join(missing)}, separated by {separator}" if missing else "name each column once"
        )
        raise InputError(f"{path}:1", _shown(lines[0]), f"{fault}; known columns: {', '.join((*required, *optional))}")
    for name in columns:
        if name not in required and name not in optional:
            report.repair(RowIssue(path.name, 1, name or "(unnamed)", name, "this column is not known and is ignored"))

    at, number = 1, 0
    while at < len(lines):
        number += 1
        report.read(path.name)
        row = Row(path.name, at + 1, number, {})
        span = LONGEST_RECORD if multiline else 1
        record = (lines[i] + "\n" for i in range(at, min(len(lines), at + span)))
        reader = csv.reader(record, strict=True, delimiter=delimiter)
        try:
            values = next(reader)
        except csv.Error as error:
            report.refuse(row.issue("row", _shown(lines[at]), f"correct the quoting ({error})"))
            at += 1
            continue
        raw = "\n".join(lines[at : at + reader.line_num])
        at += reader.line_num
        if not raw.strip():
            report.refuse(row.issue("row", raw, "remove the empty line"))
        elif not is_utf8(raw):
            field = next((c for c, v in zip(columns, values, strict=False) if not is_utf8(v)), "row")
            report.refuse(row.issue(field, _shown(raw), NOT_UTF8))
        elif len(values) != len(columns):
            remedy = f"give {len(columns)} fields, not {len(values)}; quote a field that holds a separator"
            report.refuse(row.issue("row", raw, remedy))
        else:
            fields = {c: v.strip() for c, v in zip(columns, values, strict=True)}
            yield Row(path.name, row.line, number, fields)


def jsonl_rows(path: Path, required: Sequence[str], optional: Sequence[str], report: ReportBuilder) -> Iterator[Row]:
    """Yield the rows of a file with one JSON object a line; strings are stripped, other values unchanged.

    Keys that are neither required nor optional are reported as ignored, once each.
    """
    report.open(path.name)
    known, ignored = {*required, *optional}, set[str]()
    for number, line in enumerate(read_lines(path), start=1):
        report.read(path.name)
        row = Row(path.name, number, number, {})
        if not is_utf8(line):
            report.refuse(row.issue("row", _shown(line), NOT_UTF8))
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            report.refuse(row.issue("row", line, f"write one JSON object a line ({error})"))
            continue
        if not isinstance(values, dict):
            report.refuse(row.issue("row", line, "write one JSON object a line"))
            continue
        missing = [name for name in required if name not in values]
        if missing:
            report.refuse(row.issue(missing[0], "", f"add {', '.join(missing)}"))
            continue
        for name in sorted(values.keys() - known - ignored):
            ignored.add(name)
            report.repair(row.issue(name, name, "this key is not known and is ignored, here and below"))
        yield Row(path.name, number, number, {k: v.strip() if isinstance(v, str) else v for k, v in values.items()})


def is_utf8(text: str) -> bool:
    """Return whether a text has no surrogates, which stand for undecodable bytes."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _shown(text: str) -> str:
    """Return printable text: undecodable bytes become question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
