"""`python -m benchmarks.streaming.drill`: do lake and ledger lose or double anything when processes are killed?

On a real Kafka, the broker is killed and restarted, and each worker is killed twice, at random moments of its own work.
Figures go to build/bench/streaming-drill.json; the exit status is 1 if lake or ledger differ from what was produced.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from benchmarks.figures import machine_name, write_figures
from benchmarks.streaming.check import Comparison, compare, expectations
from benchmarks.streaming.event_samples import ADS
from benchmarks.streaming.processes import Process, Workspace
from mechanism.errors import AuctionError
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Campaign, Creative
from serving.database.engine import Database
from serving.database.migrations import migrate
from streaming.kafka.log import KafkaLog
from streaming.lake import TrainingSet
from streaming.lake.store import Lake
from streaming.topics import INTERACTIONS, JUDGEMENTS, all_topics
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.java import BrokerMissing
from tests.support.postgres import PostgresMissing, PostgresServer

PARTITIONS = 3
KILLS = 2
WORKERS = ("judge", "lake", "ledger")
STALLED_S = 300.0
"""The drill gives up after this long without progress."""
EXTRA_S = 10.0
"""How long the workers keep running after everything has arrived, so that duplicates show."""


class KillPlan:
    """When to kill each process, as random shares of its own work; for the broker, of the producer's."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self._left = {name: sorted(chance.uniform(0.03, 0.9) for _ in range(KILLS)) for name in WORKERS}
        self._left["broker"] = [chance.uniform(0.3, 0.7)]
        self.away_s = chance.uniform(2.0, 8.0)

    def due(self, done: dict[str, float]) -> list[str]:
        """Return the processes to kill now; `done` are their shares of the work."""
        found = []
        for name, shares in self._left.items():
            if shares and done[name] >= shares[0]:
                shares.pop(0)
                found.append(name)
        return found


class Trial:
    """One run with broker, database, workers and producer."""

    def __init__(self, workspace: Workspace, broker: KafkaBroker, interactions: int, seed: int) -> None:
        self._workspace, self._broker = workspace, broker
        self._interactions = interactions
        self.plan = KillPlan(seed)
        self._database = Database(workspace.database, pool_size=1)
        self._lake = Lake(workspace.lake)
        self.kills = dict.fromkeys((*WORKERS, "broker"), 0)

    def run(self, producer: Process, workers: dict[str, Process], progress: Progress) -> None:
        """Kill processes as planned until everything has arrived or nothing changes any more."""
        task = progress.add_task("judged", total=self._interactions, kills=0)
        changed_at, before = time.monotonic(), dict[str, float]()
        while True:
            done = self._done()
            progress.update(task, completed=round(done["judge"] * self._interactions), kills=sum(self.kills.values()))
            for name in self.plan.due(done):
                self._kill(name, workers)
            for worker in workers.values():
                worker.ended()
            now = time.monotonic()
            changed_at, before = (now, done) if done != before else (changed_at, before)
            if (producer.ended() and self._complete()) or now - changed_at > STALLED_S:
                break
            time.sleep(1.0)
        time.sleep(EXTRA_S)
        self._database.close()

    def _kill(self, name: str, workers: dict[str, Process]) -> None:
        self.kills[name] += 1
        if name == "broker":
            self._broker.kill()
            time.sleep(self.plan.away_s)
            self._broker.start()
        else:
            workers[name].kill()

    def _done(self) -> dict[str, float]:
        """Return the shares of the work that are done, by its results; the judge's by the lake's judgements."""
        produced = self._workspace.reference.stat().st_size if self._workspace.reference.exists() else 0
        counted = self._count("SELECT count(*) FROM auctions") / self._interactions
        return {
            "broker": produced / (100.0 * self._interactions),
            "judge": self._rows(JUDGEMENTS) / self._interactions,
            "lake": self._rows(INTERACTIONS) / self._interactions,
            "ledger": counted,
        }

    def _complete(self) -> bool:
        expected = expectations(self._workspace.reference)
        clicks = sum(map(len, expected.values()))
        if self._rows(JUDGEMENTS) < len(expected):
            return False
        totals = TrainingSet(self._workspace.lake).totals()
        charged = self._count("SELECT count(*) FROM charges WHERE invalid = ''")
        counted = self._count("SELECT count(*) FROM auctions")
        wanted = (len(expected), clicks, len(expected), clicks)
        return all(a >= b for a, b in zip((totals.judged, totals.clicks, counted, charged), wanted, strict=True))

    def _rows(self, table: str) -> int:
        """Return a table's rows, repeated events counted, without reading them."""
        return int(self._lake.open(table).count()) if self._lake.has(table) else 0

    def _count(self, query: str) -> int:
        try:
            with self._database.read() as connection:
                return int(connection.execute(text(query)).scalar_one())
        except DBAPIError:
            return 0


def prepare(url: str) -> None:
    """Create a database with the traffic's campaigns, without budgets, which `benchmarks.serving.billing` covers."""
    migrate(url)
    database, now = Database(url, pool_size=1), datetime.now(UTC)
    for number, title in enumerate(ADS):
        creative = Creative(id=f"A{number}", title=title, landing_url="https://brand.example/")
        CampaignStore(database).create(
            Campaign(
                id=f"c{number}",
                advertiser_id=f"advertiser-{number}",
                name=title,
                category="drill",
                creatives=(creative,),
                bid_micros=200_000,
                currency="EUR",
                starts_at=now,
                created_at=now,
                updated_at=now,
            ),
            now,
        )
    database.close()


def drill(interactions: int, seed: int, lake: str, console: Console) -> tuple[Comparison, dict[str, object]]:
    """Run the drill; return the comparison and the other figures. `lake` is empty for a temporary folder."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[kills]} kills"),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-auction-streaming-")))
        server = stack.enter_context(PostgresServer())
        broker = stack.enter_context(KafkaBroker(3, heap="256m"))
        workspace = Workspace(folder, broker.settings(delivery_s=5), server.create("drill"), lake)
        prepare(workspace.database)
        log = KafkaLog(broker.settings())
        log.create(all_topics(PARTITIONS))
        began = time.monotonic()
        workers = {name: stack.enter_context(workspace.worker(name)) for name in WORKERS}
        producer = stack.enter_context(workspace.producer(interactions, 0.0, seed))
        trial = Trial(workspace, broker, interactions, seed)
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            trial.run(producer, workers, progress)
        figures = {
            "seconds": round(time.monotonic() - began, 1),
            "kills": trial.kills,
            "broker_away_s": round(trial.plan.away_s, 1),
            "cpu_s": {name: round(process.cpu_s(), 1) for name, process in (workers | {"producer": producer}).items()},
        }
        for worker in workers.values():
            worker.stop()
        return compare(workspace.reference, log, workspace.lake, workspace.database), figures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.streaming.drill", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lake", default="", help="an empty s3://bucket/prefix, with AWS_... set; else a folder")
    parser.add_argument("--out", type=Path, default=Path("build/bench/streaming-drill.json"))
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    console = Console(stderr=True)
    try:
        found, run = drill(given.interactions, given.seed, given.lake, console)
    except (BrokerMissing, PostgresMissing) as missing:
        console.print(str(missing))
        return 2
    except AuctionError as error:
        console.print(str(error))
        return 1
    write_figures(
        given.out, msgspec.structs.asdict(found) | run | {"lake": given.lake or "folder", "machine": machine_name()}
    )
    verdict = "exact" if found.exact else "WRONG"
    console.print(
        f"{verdict}: {found.produced} produced, {found.judged} judged, {found.stored} stored, {found.charged} of "
        f"{found.clicks} clicks charged, {found.lost} lost, {found.doubled} doubled, {found.wrong} wrong"
    )
    console.print(f"figures: {given.out}")
    return 0 if found.exact else 1


if __name__ == "__main__":
    sys.exit(main())
