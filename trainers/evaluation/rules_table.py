"""Payment rules at equilibrium as a table: what each earns once bidders shade, beside what it seems to earn before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.table import Table
from rich.text import Text

from trainers.evaluation.report import Figure
from trainers.evaluation.text import number, span

COLUMNS: Final[Mapping[str, str]] = {
    "revenue": "revenue",
    "welfare": "welfare",
    "truthful_revenue": "revenue, unshaded",
    "truthful_welfare": "welfare, unshaded",
    "shading": "bid / value",
}
"""Field of a rule's figures -> heading of its column; money in points an auction."""


def rules_table(equilibrium: Mapping[str, Any]) -> Table:
    """Return one row a rule of a report's `equilibrium`; a rule whose play reached none is marked."""
    title = f"{equilibrium['instances']} auctions, strategic bidders with the same values under every rule"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("rule")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for name, rule in equilibrium["rules"].items():
        cells = [_cell(Figure.model_validate(rule[field])) for field in COLUMNS]
        table.add_row(Text(name.replace("_", " ") + ("" if rule["reached"] else " (no equilibrium)")), *cells)
    return table


def _cell(figure: Figure) -> Text:
    interval = span(figure, 2)
    return Text(number(figure.mean, 2) + (f" ({interval})" if interval else ""))
