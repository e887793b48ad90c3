"""The loop in a terminal: a table of the versions with their revenue and state."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import bootstrap_interval

if TYPE_CHECKING:
    from cli.local.loop import Loop
    from serving.canary.guard import ServedAnswer
    from serving.canary.promotion_and_rollback import Change
    from trainers.artifacts.registry import ModelEntry

DRAWS = 200


def loop_table(loop: Loop, entries: Sequence[ModelEntry], address: str) -> RenderableType:
    """Return the versions, oldest first, with the state of the processes below."""
    now = datetime.now(UTC)
    columns = ("version", "traffic", "answers", "points/query", "with ads", "p95", "state")
    table = Table(*columns, title=f"{address}   Ctrl+C stops")
    history = loop.deployment.history()
    weights = {version.name: version.weight for version in loop.deployment.versions()}
    digests = {version.name: version.digest for change in history for version in change.after}
    for name in dict.fromkeys([*digests, *(entry.version for entry in entries)]):
        answers = loop.samples.of(digests[name], now) if name in digests else []
        entry = next((entry for entry in entries if entry.version == name), None)
        traffic = f"{weights[name]}%" if weights.get(name) else ""
        table.add_row(name, traffic, *_figures(answers), _state(name, history, entry))
    states = "   ".join(f"{name}: {child.state}" for name, child in loop.supervisor.children.items())
    return Group(table, Text(states, style="dim"))


def _figures(answers: Sequence[ServedAnswer]) -> tuple[str, str, str, str]:
    """Return number, points a query, share with ads and latency of the newest answers."""
    if not answers:
        return "", "", "", ""
    ripe = [a.revenue / MICROS_PER_POINT for a in answers if a.revenue is not None]
    revenue = ""
    if ripe:
        found = bootstrap_interval(ripe, 0, draws=DRAWS)
        revenue = f"{found.mean:.1f} ±{(found.hi - found.lo) / 2:.1f}"
    filled = float(np.mean([a.filled for a in answers]))
    p95 = float(np.percentile([a.seconds for a in answers], 95))
    return str(len(answers)), revenue, f"{filled:.0%}", f"{p95:.2f} s"


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
