"""`python -m benchmarks.streaming.bench`: what judge, feedback and ledger cost, and how fresh the shards are.

Bytes a second come first, beside plain kafka-python's. Then the workers empty a log that was filled before: events by
CPU second. Last, traffic comes at a steady rate: the age of clicks when they can be read, and the workers' memory.
Figures go to build/bench/streaming.json.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import structlog
from rich.console import Console

from benchmarks.serving.measured import percentile_ms
from benchmarks.streaming.ages import Ages
from benchmarks.streaming.ceiling import measure
from benchmarks.streaming.check import Comparison, compare
from benchmarks.streaming.drill import PARTITIONS, SESSION_S, WORKERS, prepare
from benchmarks.streaming.processes import Place, Process
from mechanism.errors import AuctionError
from streaming.kafka.log import KafkaLog
from streaming.shards import ShardReader
from streaming.topics import CLICKS, INTERACTIONS, all_topics
from tests.support.kafka.broker import BrokerMissing, KafkaBroker
from tests.support.postgres import PostgresMissing, PostgresServer

OPTIONS = {"judge": ("--window", "30", "--lateness", "30", "--idle", "2")}
EVENTS_EACH = 1.71
"""Events that an interaction of the traffic comes to, its clicks counted."""
STALLED_S = 240.0
QUIET_S = 8.0


class Bench:
    """One Kafka and one PostgreSQL; each part has topics, shards and a database of its own."""

    def __init__(self, stack: ExitStack, console: Console) -> None:
        self._stack, self._console = stack, console
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-auction-streaming-")))
        self._server = stack.enter_context(PostgresServer())

    def place(self, name: str) -> tuple[Place, KafkaLog]:
        """A broker, a folder and a database for one part."""
        broker = self._stack.enter_context(KafkaBroker())
        folder = self._folder / name
        folder.mkdir()
        place = Place(folder, broker.settings(session_s=SESSION_S), self._server.create(name))
        prepare(place.database)
        log = KafkaLog(broker.settings())
        log.create(all_topics(PARTITIONS))
        return place, log

    def backlog(self, interactions: int) -> dict[str, object]:
        """What the workers need for a log that is full when they start."""
        place, log = self.place("backlog")
        with place.producer(interactions, 0.0, 1) as producer:
            while not producer.ended():
                time.sleep(0.2)
            produced_cpu_s = producer.cpu_s()
        events = _events(log)
        with ExitStack() as running:
            began = time.monotonic()
            workers = {kind: running.enter_context(place.worker(kind, *OPTIONS.get(kind, ()))) for kind in WORKERS}
            self._settle(place, interactions, workers)
            seconds = time.monotonic() - began
            cpu_s = {kind: worker.cpu_s() for kind, worker in workers.items()}
            for worker in workers.values():
                worker.stop()
        found = compare(place.reference, log, place.shards, place.database)
        learning_s = cpu_s["judge"] + cpu_s["feedback"]
        return {
            "events": events,
            "interactions": interactions,
            "seconds": round(seconds, 1),
            "exact": found.exact,
            "cpu_s": {kind: round(spent, 1) for kind, spent in cpu_s.items()},
            "judged_events_per_core_s": round(events / learning_s),
            "judged_interactions_per_core_s": round(interactions / learning_s),
            "charged_events_per_core_s": round(events / cpu_s["ledger"]),
            "producer_events_per_core_s": round(events / produced_cpu_s) if produced_cpu_s else None,
        }

    def steady(self, rate: float, seconds: float) -> dict[str, object]:
        """Ages and memory at a rate of events a second."""
        place, log = self.place("steady")
        interactions = round(rate / EVENTS_EACH * seconds)
        ages, memory = Ages(place.shards), {kind: list[int]() for kind in WORKERS}
        with ExitStack() as running:
            workers = {kind: running.enter_context(place.worker(kind, *OPTIONS.get(kind, ()))) for kind in WORKERS}
            time.sleep(QUIET_S)
            cpu_s = {kind: worker.cpu_s() for kind, worker in workers.items()}
            producer = running.enter_context(place.producer(interactions, rate / EVENTS_EACH, 2))
            began = time.monotonic()
            while not producer.ended():
                ages.look()
                for kind, worker in workers.items():
                    memory[kind].append(worker.memory())
                time.sleep(0.2)
            lasted = time.monotonic() - began
            events = _events(log)
            self._settle(place, interactions, workers, ages)
            cpu_s = {kind: worker.cpu_s() - cpu_s[kind] for kind, worker in workers.items()}
            for worker in workers.values():
                worker.stop()
        found: Comparison = compare(place.reference, log, place.shards, place.database)
        return {
            "events": events,
            "asked_events_per_s": rate,
            "events_per_s": round(events / lasted),
            "seconds": round(lasted, 1),
            "exact": found.exact,
            "clicks": len(ages.seconds),
            "age_s": {f"p{p}": round(percentile_ms(ages.seconds, p) / 1000, 2) for p in (50, 95, 99)},
            "cpu_share": {kind: round(spent / lasted, 3) for kind, spent in cpu_s.items()},
            "memory_mb": {kind: _parts(samples) for kind, samples in memory.items()},
        }

    def ceiling(self, records: int) -> dict[str, object]:
        """Bytes a second."""
        with KafkaBroker() as broker:
            found = measure(broker.settings(), records)
        return {name: msgspec.structs.asdict(speed) for name, speed in found.items()}

    def _settle(self, place: Place, interactions: int, workers: dict[str, Process], ages: Ages | None = None) -> None:
        """Until every interaction is in the shards and nothing moves any more."""
        reader, moved_at, before = ShardReader(place.shards), time.monotonic(), None
        while True:
            totals = reader.totals()
            now = time.monotonic()
            if totals != before:
                moved_at, before = now, totals
            if now - moved_at > (QUIET_S if totals.auctions >= interactions else STALLED_S):
                return
            for worker in workers.values():
                worker.ended()
            if ages is not None:
                ages.look()
            time.sleep(0.2)


def main() -> int:
    """Runs the parts and writes the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming.bench")
    parser.add_argument("--interactions", type=int, default=50_000, help="of the part that fills the log first")
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second of the steady part")
    parser.add_argument("--seconds", type=float, default=240.0, help="length of the steady part")
    parser.add_argument("--records", type=int, default=20_000, help="of the comparison with plain kafka-python")
    parser.add_argument("--out", type=Path, default=Path("build/bench/streaming.json"))
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console, figures = Console(stderr=True), dict[str, object]()
    try:
        with ExitStack() as stack:
            bench = Bench(stack, console)
            figures["ceiling_mb"] = bench.ceiling(given.records)
            console.print(figures)
            figures["backlog"] = bench.backlog(given.interactions)
            console.print(figures["backlog"])
            figures["steady"] = bench.steady(given.rate, given.seconds)
            console.print(figures["steady"])
    except (BrokerMissing, PostgresMissing) as missing:
        console.print(str(missing))
        return 2
    except AuctionError as error:
        console.print(str(error))
        return 1
    figures["machine"] = platform.processor() or platform.machine()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")
    console.print(f"figures: {given.out}")
    return 0


def _events(log: KafkaLog) -> int:
    with log.consumer("", [INTERACTIONS, CLICKS]) as consumer:
        return sum(consumer.ends().values())


def _parts(samples: list[int]) -> dict[str, float]:
    """Resident memory as a run goes on: when a third is over, when two are, at the end, and at most."""
    if not samples:
        return {}
    at = {"third": len(samples) // 3, "two_thirds": 2 * len(samples) // 3, "end": len(samples) - 1}
    return {name: round(samples[i] / 1e6, 1) for name, i in at.items()} | {"most": round(max(samples) / 1e6, 1)}


if __name__ == "__main__":
    sys.exit(main())
