"""A report on disk: report.json for programs, report.html for people, in a folder or any fsspec URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import fsspec
from pydantic import ValidationError

from mechanism.errors import InputError
from trainers.evaluation.html import render_html
from trainers.evaluation.report import Report

REPORT_JSON: Final = "report.json"
REPORT_HTML: Final = "report.html"


def to_json(report: Report) -> str:
    """The report as JSON text; numbers are finite, unknown ones null."""
    return json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_report(report: Report, out_dir: str | Path) -> None:
    """Write report.json and report.html into a folder or fsspec URL; each appears whole or not at all."""
    # Both are made before either is written, so that a folder never pairs a new report with an old page.
    files = {REPORT_JSON: to_json(report), REPORT_HTML: render_html(report)}
    fs, root = fsspec.core.url_to_fs(str(out_dir))
    fs.makedirs(root, exist_ok=True)
    for name, text in files.items():
        with fs.open(f"{root}/{name}.partial", "wb") as file:
            file.write(text.encode("utf-8"))
        fs.mv(f"{root}/{name}.partial", f"{root}/{name}")


def read_report(path: str | Path) -> Report:
    """Read a report.json, or the one in a folder (path or fsspec URL). Raises InputError naming the field."""
    fs, where = fsspec.core.url_to_fs(str(path))
    if fs.isdir(where):
        where = f"{where}/{REPORT_JSON}"
    if not fs.exists(where):
        raise InputError(str(path), REPORT_JSON, "there is no report here; write one with `llm-auction evaluate`")
    with fs.open(where, "rb") as file:
        raw: bytes = file.read()
    return parse_report(raw, where)


def parse_report(raw: bytes | str, place: str) -> Report:
    """Check JSON text against the report's schema. Raises InputError at `place` with the field, or the line."""
    try:
        data: Any = json.loads(raw)
    except json.JSONDecodeError as error:
        raise InputError(f"{place}:{error.lineno}", error.msg, "give a report.json as it was written") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: byte {error.start}", error.reason, "give a report.json in UTF-8") from None
    try:
        return Report.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part != "[key]") or "report"
        value = "(absent)" if first["type"] == "missing" else _excerpt(first["input"])
        raise InputError(f"{place}: {field}", value, first["msg"].removeprefix("Value error, ")) from None


def _excerpt(value: object) -> object:
    """The offending value where it is a plain one, else its kind: a whole object says nothing in a message."""
    return value if isinstance(value, str | int | float | bool) or value is None else type(value).__name__
