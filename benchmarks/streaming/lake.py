"""`python -m benchmarks.streaming.lake`: how fast events become rows, and how fast the training set is read.

One process, tables on a folder. First without a log: rows a second with their commits, the query over all answers, an
erasure, and a pass of the upkeep. Then judge and lake worker, a process each, on an embedded log at a steady rate: the
age of a click when the query returns it. Figures go to build/bench/lake.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from rich.console import Console

from benchmarks.figures import machine_name, percentile, write_figures
from benchmarks.streaming.event_samples import click, interaction
from benchmarks.streaming.processes import Workspace
from benchmarks.streaming.steady import steady
from streaming.codec import encode
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent, GradedAd, Judgement
from streaming.lake import TrainingSet
from streaming.lake.erasures import erase
from streaming.lake.maintenance import Maintenance, maintain
from streaming.lake.schema import Stored
from streaming.lake.store import Lake
from streaming.lake.table import LakeTable, Mark
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS, all_topics

LOG = "benchmark"
BATCH = 2_000
CLICKED = 0.6
USERS = 5_000


def traffic(count: int, end: datetime) -> dict[str, list[AnyEvent]]:
    """Return answers ten milliseconds apart, a click on six of ten, and a judgement of each."""
    found: dict[str, list[AnyEvent]] = {INTERACTIONS: [], CLICKS: [], JUDGEMENTS: []}
    for number in range(count):
        event = interaction(number, end - timedelta(milliseconds=10 * (count - number)), user=f"{number % USERS:032x}")
        found[INTERACTIONS].append(event)
        if number % 10 < 10 * CLICKED:
            found[CLICKS].append(click(event, "A0", 5.0))
        judgement = Judgement(
            occurred_at=event.occurred_at,
            auction_id=event.auction_id,
            answered_at=event.occurred_at,
            judge="rules",
            judge_version="1",
            ads=tuple(GradedAd(ad_id=shown.ad_id, relevance=0.5, nativeness=0.5) for shown in event.shown),
        )
        found[JUDGEMENTS].append(judgement)
    return found


def written(lake: Lake, topic: str, events: Sequence[AnyEvent]) -> dict[str, float | int | None]:
    """Write events as the lake worker does; return rows a second and the time of a commit."""
    table, commits = LakeTable(lake, topic, LOG), list[float]()
    table.own([0])
    rows = [Stored(event, encode(event), event.occurred_at, LOG, 0, n) for n, event in enumerate(events)]
    began = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        batch, at = rows[start : start + BATCH], time.perf_counter()
        table.append(batch, {0: Mark(start + len(batch), None)})
        commits.append(time.perf_counter() - at)
    seconds = time.perf_counter() - began
    return {
        "rows": len(rows),
        "rows_per_s": round(len(rows) / seconds),
        "commit_s_p50": round(percentile(commits, 50) or 0.0, 3),
        "commit_s_p95": round(percentile(commits, 95) or 0.0, 3),
    }


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """Return what a call returned, and the seconds that it took."""
    began = time.perf_counter()
    found = work()
    return found, round(time.perf_counter() - began, 2)


def measure(count: int, url: str) -> dict[str, object]:
    """Write `count` answers with their clicks and judgements, read them, erase a user and merge the files."""
    lake, figures = Lake(url), dict[str, object]()
    for topic, events in traffic(count, datetime.now(UTC)).items():
        figures[topic] = written(lake, topic, events)
    totals, figures["count_s"] = timed(lambda: TrainingSet(url).totals())
    figures["totals"] = repr(totals)
    columns = ["auction_id", "occurred_at", "clicks", "grades"]
    _, figures["join_s"] = timed(lambda: sum(t.num_rows for t in TrainingSet(url).tables(columns=columns)))
    _, figures["all_columns_s"] = timed(lambda: sum(table.num_rows for table in TrainingSet(url).tables()))
    user = f"{7:032x}"
    answers, figures["erase_s"] = timed(lambda: erase(lake, "user", user, "benchmark", timedelta(days=30))[1])
    figures["erased"] = answers
    done, figures["maintain_s"] = timed(lambda: maintain(lake, Maintenance()))
    figures["maintained"] = repr(done)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming.lake")
    parser.add_argument("--interactions", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second of the second part")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the second part")
    parser.add_argument("--out", type=Path, default=Path("build/bench/lake.json"))
    given = parser.parse_args()
    console = Console(stderr=True)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(prefix="llm-auction-lake-") as folder:
        figures = measure(given.interactions, str(Path(folder) / "tables"))
        workspace = Workspace(Path(folder))
        EmbeddedLog(Path(workspace.log)).create(all_topics())
        figures["steady"] = steady(workspace, ("judge", "lake"), given.rate, given.seconds)
    console.print(figures)
    write_figures(given.out, figures | {"machine": machine_name()})
    console.print(f"figures: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
