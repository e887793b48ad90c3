"""The loop in a terminal: a table of the versions with their revenue and state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cli.local.loop import Loop
    from serving.canary.promotion_and_rollback import Change
    from trainers.artifacts.registry import ModelEntry

NEWEST = 1_000
"""Answers of each version that its figures cover: whole minutes with at least so many."""


def loop_table(loop: Loop, entries: Sequence[ModelEntry], address: str) -> RenderableType:
    """Return the versions, oldest first, with the state of the processes below."""
    from serving.canary.guard import figures_of
    from serving.canary.lake_cohorts import newest

    now = (loop.cohorts.until or datetime.now(UTC)).timestamp()
    window_s = loop.cohorts.click_window_s
    columns = ("version", "traffic", "answers", "points/query", "with ads", "p95", "state")
    table = Table(*columns, title=f"{address}   Ctrl+C stops")
    history = loop.deployment.history()
    weights = {version.name: version.weight for version in loop.deployment.versions()}
    digests = {version.name: version.digest for change in history for version in change.after}
    for name in dict.fromkeys([*digests, *(entry.version for entry in entries)]):
        cohorts = newest(loop.cohorts.of(digests[name]), NEWEST) if name in digests else {}
        entry = next((entry for entry in entries if entry.version == name), None)
        traffic = f"{weights[name]}%" if weights.get(name) else ""
        table.add_row(name, traffic, *_figures(figures_of(cohorts, now, window_s)), _state(name, history, entry))
    states = "   ".join(f"{name}: {child.state}" for name, child in loop.supervisor.children.items())
    return Group(table, Text(states, style="dim"))


def _figures(figures: Mapping[str, float | None]) -> tuple[str, str, str, str]:
    """Return number, points a query with their 95% margin, share with ads and latency of the newest answers."""
    revenue, error, ad_free, p95 = (figures[name] for name in ("revenue", "revenue_error", "ad_free", "p95_s"))
    return (
        f"{figures['answers']:.0f}" if figures["answers"] else "",
        "" if revenue is None or error is None else f"{revenue:.1f} ±{1.96 * error:.1f}",
        "" if ad_free is None else f"{1 - ad_free:.0%}",
        "" if p95 is None else f"{p95:.2f} s",
    )


def _state(name: str, history: Sequence[Change], entry: ModelEntry | None) -> str:
    """Return the version's last change, or its gates' refusal."""
    last = next((change for change in reversed(history) if change.version == name), None)
    if last is not None:
        words = {"start": "first", "promote": "on probation", "keep": "kept", "rollback": "rolled back"}
        return f"{words[last.kind]}: {last.why}" if last.kind == "rollback" else words[last.kind]
    if entry is not None and entry.gates.get("promote") is False:
        return f"refused: {_refusal(entry)}"
    return "registered"


def _refusal(entry: ModelEntry) -> str:
    """Return the first gate that did not pass, and its reason."""
    gates = entry.gates.get("gates")
    for gate in gates if isinstance(gates, list) else ():
        if isinstance(gate, dict) and gate.get("verdict") != "passed":
            return f"{gate.get('name')}, {gate.get('reason')}"
    return "by its gates"
