"""A report as JSON for programs and as CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import msgspec

from mechanism.types import MICROS_PER_UNIT, Micros
from serving.reports.reports import FIGURES, Dimension, Line

# Spreadsheets read a cell that begins so as a formula, and may run it.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def as_json(lines: Sequence[Line]) -> bytes:
    """`{"lines": [...]}`; each line has its query, so that it can be sent back to ask for its events."""
    return msgspec.json.encode({"lines": lines})


def as_csv(lines: Sequence[Line]) -> str:
    """One row for each line, under a header; revenue in micros and in units of the currency.

    Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    dimensions = [dimension.value for dimension in (lines[0].query.group_by if lines else tuple(Dimension))]
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([*dimensions, "currency", *FIGURES, "revenue"])
    for line in lines:
        names = [_inert(getattr(line, name)) for name in (*dimensions, "currency")]
        writer.writerow([*names, *(getattr(line, name) for name in FIGURES), _units(line.revenue_micros)])
    return text.getvalue()


def _inert(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _units(micros: Micros) -> str:
    return f"{micros // MICROS_PER_UNIT}.{micros % MICROS_PER_UNIT:06d}"
