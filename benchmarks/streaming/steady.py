"""Traffic at a steady rate through the workers' own processes: the age of clicks, and the workers' CPU and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc

from benchmarks.figures import percentile
from benchmarks.streaming.processes import Process, Workspace
from streaming.lake import Totals, TrainingSet

EVENTS_EACH = 1.71
"""Mean number of events of an interaction of the traffic, its clicks included."""
NEWEST = timedelta(seconds=60)
"""The answers that are read: their clicks follow within seconds, and are never returned later than that."""
POLL_S = 0.2
START_S = 8.0
STALLED_S = 240.0
QUIET_S = 8.0


class Ages:
    """Measures how old clicks are when the query returns them, by running it on the newest answers again and again."""

    def __init__(self, lake: str) -> None:
        self._lake = lake
        self._seen: set[tuple[str, str]] = set()
        self.seconds: list[float] = []
        self.query_s: list[float] = []

    def poll(self) -> None:
        """Run the query; a click is measured once, when it is first returned."""
        began = time.monotonic()
        columns = ["auction_id", "occurred_at", "clicks"]
        for table in TrainingSet(self._lake).tables(datetime.now(UTC) - NEWEST, columns=columns):
            now = time.time()
            for row in table.filter(pc.is_valid(table["clicks"])).to_pylist():
                for click in row["clicks"]:
                    name = row["auction_id"], click["ad_id"]
                    if name not in self._seen:
                        self._seen.add(name)
                        self.seconds.append(now - row["occurred_at"].timestamp() - click["clicked_after_s"])
            self.query_s.append(time.monotonic() - began)


def steady(workspace: Workspace, kinds: Sequence[str], rate: float, seconds: float) -> dict[str, object]:
    """Run traffic and these workers at `rate` events a second; return ages, CPU shares and memory."""
    interactions = round(rate / EVENTS_EACH * seconds)
    ages, memory = Ages(workspace.lake), {kind: list[int]() for kind in kinds}
    with ExitStack() as running:
        workers = {kind: running.enter_context(workspace.worker(kind)) for kind in kinds}
        time.sleep(START_S)
        before_s = {kind: worker.cpu_s() for kind, worker in workers.items()}
        producer = running.enter_context(workspace.producer(interactions, rate / EVENTS_EACH, 2))
        began = time.monotonic()
        while not producer.ended():
            ages.poll()
            for kind, worker in workers.items():
                memory[kind].append(worker.memory())
            time.sleep(POLL_S)
        lasted = time.monotonic() - began
        wait_until_judged(workspace, interactions, workers, ages)
        cpu_s = {kind: worker.cpu_s() - before_s[kind] for kind, worker in workers.items()}
        for worker in workers.values():
            worker.stop()
    return {
        "asked_events_per_s": rate,
        "answers": interactions,
        "seconds": round(lasted, 1),
        "clicks": len(ages.seconds),
        "age_s": _percentiles(ages.seconds),
        "age_s_last_third": _percentiles(ages.seconds[-len(ages.seconds) // 3 :]),
        "query_s": _percentiles(ages.query_s),
        "cpu_share": {kind: round(spent / lasted, 3) for kind, spent in cpu_s.items()},
        "memory_mb": {kind: _memory_mb(samples) for kind, samples in memory.items()},
    }


def wait_until_judged(
    workspace: Workspace, interactions: int, workers: Mapping[str, Process], ages: Ages | None = None
) -> None:
    """Wait until every interaction is judged and the totals no longer change."""
    changed_at, before = time.monotonic(), Totals()
    while True:
        totals = TrainingSet(workspace.lake).totals()
        now = time.monotonic()
        if totals != before:
            changed_at, before = now, totals
        if now - changed_at > (QUIET_S if totals.judged >= interactions else STALLED_S):
            return
        for worker in workers.values():
            worker.ended()
        if ages is not None:
            ages.poll()
        time.sleep(1.0)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(percentile(seconds, p) or 0.0, 2) for p in (50, 95, 99)}


def _memory_mb(samples: Sequence[int]) -> dict[str, float]:
    """Return the resident memory after a third and two thirds of a run, at its end, and its maximum."""
    if not samples:
        return {}
    at = {"third": len(samples) // 3, "two_thirds": 2 * len(samples) // 3, "end": len(samples) - 1}
    return {name: round(samples[i] / 1e6, 1) for name, i in at.items()} | {"most": round(max(samples) / 1e6, 1)}
