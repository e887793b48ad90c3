"""`python -m benchmarks.streaming.bench`: the cost of judge, lake and ledger, and the age of what can be read.

First part: bytes a second, compared with plain kafka-python. Second: the workers process a log that was filled before,
in events a CPU second. Third: traffic at a steady rate, with the age of clicks when they can be read and the workers'
memory. Figures go to build/bench/streaming.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import structlog
from rich.console import Console

from benchmarks.figures import machine_name, write_figures
from benchmarks.streaming.ceiling import measure
from benchmarks.streaming.check import Comparison, compare
from benchmarks.streaming.drill import PARTITIONS, WORKERS, prepare
from benchmarks.streaming.processes import Workspace
from benchmarks.streaming.steady import steady, wait_until_judged
from mechanism.errors import AuctionError
from streaming.kafka.log import KafkaLog
from streaming.topics import CLICKS, INTERACTIONS, all_topics
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.java import BrokerMissing
from tests.support.postgres import PostgresMissing, PostgresServer


class Bench:
    """One PostgreSQL server; each part has its own broker, lake and database."""

    def __init__(self, stack: ExitStack, console: Console) -> None:
        self._stack, self._console = stack, console
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-auction-streaming-")))
        self._server = stack.enter_context(PostgresServer())

    def workspace(self, name: str) -> tuple[Workspace, KafkaLog]:
        """Start a broker, and create a folder and a database, for one part."""
        broker = self._stack.enter_context(KafkaBroker())
        folder = self._folder / name
        folder.mkdir()
        workspace = Workspace(folder, broker.settings(), self._server.create(name))
        prepare(workspace.database)
        log = KafkaLog(broker.settings())
        log.create(all_topics(PARTITIONS))
        return workspace, log

    def backlog(self, interactions: int) -> dict[str, object]:
        """Measure the workers on a log that is full when they start."""
        workspace, log = self.workspace("backlog")
        with workspace.producer(interactions, 0.0, 1) as producer:
            while not producer.ended():
                time.sleep(0.2)
            produced_cpu_s = producer.cpu_s()
        events = _events(log)
        with ExitStack() as running:
            began = time.monotonic()
            workers = {kind: running.enter_context(workspace.worker(kind)) for kind in WORKERS}
            wait_until_judged(workspace, interactions, workers)
            seconds = time.monotonic() - began
            cpu_s = {kind: worker.cpu_s() for kind, worker in workers.items()}
            for worker in workers.values():
                worker.stop()
        found = compare(workspace.reference, log, workspace.lake, workspace.database)
        learning_s = cpu_s["judge"] + cpu_s["lake"]
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
        """Measure ages and memory at `rate` events a second."""
        workspace, log = self.workspace("steady")
        figures = steady(workspace, WORKERS, rate, seconds)
        found: Comparison = compare(workspace.reference, log, workspace.lake, workspace.database)
        return {"events": _events(log), "exact": found.exact} | figures

    def ceiling(self, records: int) -> dict[str, object]:
        """Measure bytes a second."""
        with KafkaBroker() as broker:
            found = measure(broker.settings(), records)
        return {name: msgspec.structs.asdict(speed) for name, speed in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming.bench")
    parser.add_argument("--interactions", type=int, default=50_000, help="of the second part")
    parser.add_argument("--rate", type=float, default=1_000.0, help="events a second of the third part")
    parser.add_argument("--seconds", type=float, default=240.0, help="length of the third part")
    parser.add_argument("--records", type=int, default=20_000, help="of the first part")
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
    write_figures(given.out, figures | {"machine": machine_name()})
    console.print(f"figures: {given.out}")
    return 0


def _events(log: KafkaLog) -> int:
    with log.consumer("", [INTERACTIONS, CLICKS]) as consumer:
        return sum(consumer.ends().values())


if __name__ == "__main__":
    sys.exit(main())
