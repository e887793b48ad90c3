"""`python -m benchmarks.serving.billing`: is the ledger exact after kills, on SQLite and on PostgreSQL?

Writers and PostgreSQL's server are killed while they charge; afterwards the ledger must equal the reference to the
micro. Figures go to build/bench/billing.json; the exit status is 1 if a ledger is wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from benchmarks.figures import write_figures
from benchmarks.serving.billing_check import Comparison, Terms, compare, expected
from benchmarks.serving.billing_traffic import Plan, charge_file, write_events
from mechanism.errors import AuctionError
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.database.schema import charges
from tests.support.postgres import PostgresMissing, PostgresServer, programs

PROCESSES = multiprocessing.get_context("forkserver")
KILLS_PER_WRITER = 3
SERVER_KILLS = 6


class DrillFailed(AuctionError):
    """A writer exited with an error."""


class Trial(msgspec.Struct, kw_only=True):
    """Numbers of kills of writers and server, and the seconds that the trial took."""

    writer_kills: int = 0
    server_kills: int = 0
    seconds: float = 0.0


class Writers:
    """The writers' processes; a killed one is restarted at once on the same file."""

    def __init__(self, url: str, files: tuple[Path, ...]) -> None:
        self._url, self._files = url, files
        self._running = [self._start(n) for n in range(len(files))]

    def alive(self) -> list[int]:
        """Return the numbers of the writers that still run.

        Raises:
            DrillFailed: if one exited with an error.
        """
        for number, process in enumerate(self._running):
            if process.exitcode not in (None, 0):
                raise DrillFailed(f"writer {number} exited with status {process.exitcode}")
        return [number for number, process in enumerate(self._running) if process.exitcode is None]

    def kill(self, number: int) -> bool:
        """Kill a writer and restart it; return False if it had finished before."""
        process = self._running[number]
        process.kill()  # does nothing if it has just finished
        process.join()
        killed = process.exitcode != 0
        if killed:
            self._running[number] = self._start(number)
        return killed

    def stop(self) -> None:
        """Kill all writers."""
        for process in self._running:
            process.kill()
            process.join()

    def _start(self, number: int) -> multiprocessing.process.BaseProcess:
        process = PROCESSES.Process(target=charge_file, args=(self._url, self._files[number], number), daemon=True)
        process.start()
        return process


def trial(name: str, url: str, server: PostgresServer | None, plan: Plan, progress: Progress, seed: int) -> Trial:
    """Charge all events of the plan into an empty database, with kills spread over the run."""
    migrate(url)
    database, chance, done = Database(url, pool_size=1), random.Random(seed), Trial()
    store = CampaignStore(database)
    for campaign in plan.campaigns:
        store.create(campaign, datetime.now(UTC))
    planned = ["writer"] * (KILLS_PER_WRITER * len(plan.files)) + ["server"] * (SERVER_KILLS if server else 0)
    # each kill waits for a number of recorded events, so that all kills happen during the work, however fast it is
    kills = sorted((chance.uniform(0.01, 0.97) * plan.events, what) for what in planned)
    task = progress.add_task(name, total=plan.events, kills=0)
    began = time.monotonic()
    writers = Writers(url, plan.files)
    try:
        while alive := writers.alive():
            recorded = _recorded(database)
            progress.update(task, completed=recorded, kills=done.writer_kills + done.server_kills)
            if kills and recorded >= kills[0][0]:
                _, what = kills.pop(0)
                if what == "server" and server is not None:
                    server.kill(hard=chance.random() < 0.5)
                    time.sleep(chance.uniform(0, 0.5))
                    server.start()
                    done.server_kills += 1
                else:
                    done.writer_kills += writers.kill(chance.choice(alive))
            time.sleep(chance.uniform(0, 0.05))
        progress.update(task, completed=_recorded(database), kills=done.writer_kills + done.server_kills)
    finally:
        writers.stop()
        database.close()
    done.seconds = round(time.monotonic() - began, 1)
    return done


def check(url: str, plan: Plan) -> Comparison:
    """Compare the ledger at `url` with the reference."""
    terms = {
        c.id: Terms(c.advertiser_id, c.time_zone, c.daily_budget_micros, c.total_budget_micros) for c in plan.campaigns
    }
    database = Database(url)
    try:
        return compare(database, terms, plan.files, expected(terms, plan.files))
    finally:
        database.close()


def main() -> int:

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.billing", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--events", type=int, default=100_000, help="different clicks; a fifth of them come twice")
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["sqlite", "postgresql"], help="one database instead of both")
    parser.add_argument("--out", type=Path, default=Path("build/bench/billing.json"))
    given = parser.parse_args()
    PROCESSES.set_forkserver_preload(["benchmarks.serving.billing_traffic", "psycopg"])
    console, figures = Console(stderr=True), {}
    names = [given.only] if given.only else ["sqlite", "postgresql"]
    try:
        if "postgresql" in names:
            programs()  # fail before minutes are spent on the other database
    except PostgresMissing as missing:
        console.print(f"{missing}; or leave it out with --only sqlite")
        return 2
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[kills]} kills"),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llm-auction-billing-")))
        plan = write_events(folder, given.events, given.writers, given.seed)
        progress = stack.enter_context(Progress(*columns, TimeElapsedColumn(), console=console))
        for name in names:
            server = stack.enter_context(PostgresServer()) if name == "postgresql" else None
            url = server.create("drill") if server else f"sqlite:///{folder / 'drill.sqlite3'}"
            done = trial(name, url, server, plan, progress, given.seed)
            figures[name] = (done, check(url, plan))
    kills = sum(done.writer_kills + done.server_kills for done, _ in figures.values())
    written = {
        **{
            name: msgspec.structs.asdict(found) | msgspec.structs.asdict(done)
            for name, (done, found) in figures.items()
        },
        **{"events": plan.events, "duplicates": plan.duplicates, "late": plan.late, "writers": given.writers},
        "kills": kills,
    }
    write_figures(given.out, written)
    for name, (done, found) in figures.items():
        verdict = "exact" if found.exact else "WRONG"
        console.print(
            f"{name}: {verdict}: {found.charged_micros} of {found.expected_micros} micros, {found.overspent_campaigns} "
            f"overspent, {done.writer_kills} writers and {done.server_kills} servers killed, {done.seconds} s"
        )
    console.print(f"figures: {given.out}")
    return 0 if all(found.exact for _, found in figures.values()) else 1


def _recorded(database: Database) -> int:
    """Return the number of recorded events; -1 while the database is unavailable."""
    try:
        with database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(charges)).scalar_one())
    except DBAPIError:
        return -1


if __name__ == "__main__":
    sys.exit(main())
