"""The workers of `llm-auction serve --workers N`: router processes on one address, and their supervisor.

Each worker is the same command with a place among the others. The database holds what has to be exact over all of them
(charges, budgets, frequency caps); the first worker's router runs the ledger. The supervisor replaces a worker that
exits, stops all of them at once, and serves their metrics together.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog
import typer

from cli.exits import EXIT_BAD_INPUT
from cli.listening import listen, share
from mechanism.errors import ConfigError

if TYPE_CHECKING:
    from serving.campaigns.catalogue import Catalogue
    from serving.settings import ServeSettings

log = structlog.get_logger(__name__)

IN_PROCESS = "each worker would load the model into its own memory"
PLACE_VARIABLE = "LLM_AUCTION_WORKER"
POLL_S = 0.2
DELAYS_S = (0.0, 1.0, 5.0, 15.0)
"""Delay before the first, second, ... restart in a row; the last one repeats."""
STEADY_S = 60.0
"""A worker that ran for this long counts as recovered."""
AFTER_DRAIN_S = 30.0
"""How long a worker may take after its answers are drained: it writes its events to disk and closes the ledger."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """One worker's place: its number from 1 to `count`, and the port of this machine where its metrics are."""

    number: int
    count: int
    metrics_port: int

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> WorkerPlace | None:
        """Return this process's place; None if it is no worker.

        Raises:
            ConfigError: if the environment's value was not written by a supervisor.
        """
        text = environment.get(PLACE_VARIABLE, "")
        if not text:
            return None
        try:
            return cls(*map(int, text.split(",")))
        except (TypeError, ValueError) as error:
            raise ConfigError(PLACE_VARIABLE, text, "leave it to `serve --workers`") from error

    def environment(self) -> dict[str, str]:
        """Return the environment of the worker, for `of`."""
        return {**os.environ, PLACE_VARIABLE: f"{self.number},{self.count},{self.metrics_port}"}

    def settings(self, whole: ServeSettings) -> ServeSettings:
        """Return the worker's part of the settings: its share of what one process may hold, one ledger for all."""
        return replace(
            whole,
            in_flight=-(-whole.in_flight // self.count),
            connections=-(-whole.connections // self.count),
            ledger=whole.ledger if self.number == 1 else "elsewhere",
            metrics_address=f"127.0.0.1:{self.metrics_port}",
        )


class Worker:
    """One worker and its current process."""

    def __init__(self, number: int, count: int, arguments: Sequence[str]) -> None:
        self.number = number
        self.metrics_port = 0
        self.restarts = 0
        self._count = count
        self._arguments = arguments
        self._failures = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = self._restart_at = 0.0

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start a process."""
        with listen("127.0.0.1", 0) as free:
            self.metrics_port = free.getsockname()[1]
        place = WorkerPlace(self.number, self._count, self.metrics_port)
        # A session of its own: Ctrl+C reaches the supervisor, which stops the workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cli.local.child", str(os.getpid()), "0", *self._arguments],
            env=place.environment(),
            start_new_session=True,
        )
        self._started_at = time.monotonic()

    def replace_if_exited(self) -> int | None:
        """Start another process if this one has exited, after a delay that grows with the failures in a row.

        Return the exit status of a first process that found its input invalid: no other one would start.
        """
        if self.running or self._process is None:
            return None
        now = time.monotonic()
        if not self._restart_at:
            status = self._process.returncode
            if status == EXIT_BAD_INPUT and not self.restarts:
                return status
            self._failures = 1 if now - self._started_at > STEADY_S else self._failures + 1
            delay_s = DELAYS_S[min(self._failures, len(DELAYS_S)) - 1]
            self._restart_at = now + delay_s
            log.error("worker.exited", worker=self.number, status=status, restart_in_s=delay_s)
        if now >= self._restart_at:
            self._restart_at = 0.0
            self.restarts += 1
            self.start()
        return None

    def terminate(self) -> None:
        """Ask the process to drain."""
        if self._process is not None:
            self._process.terminate()

    def wait(self, until: float) -> None:
        """Wait for the end of the process, until a time of the monotonic clock; then kill it and its children."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("worker.killed", worker=self.number)
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def check_workers(workers: int, metrics: str, elsewhere: bool) -> None:
    """Check that routers can share an address; `elsewhere`: another server writes the answers.

    Raises:
        ConfigError: if each of them would load the model, or a scrape would reach any one of them.
    """
    if not elsewhere:
        raise ConfigError("--workers", workers, f"{IN_PROCESS}: serve it with --triton or --upstream, or use 1")
    if not metrics:
        remedy = "give host:port for the metrics of all workers: a scrape of --port would reach any one of them"
        raise ConfigError("--metrics", metrics, remedy)


def prepare(settings: ServeSettings, secrets: Sequence[bytes], ads: Catalogue | None) -> None:
    """Prepare the database before several routers start on it: the schema, the catalogue, the administrator's key."""
    from datetime import UTC, datetime

    from serving.accounts.keys import AccountStore, ensure_administrator
    from serving.campaigns.catalogue import import_catalogue
    from serving.campaigns.storage import CampaignStore
    from serving.database.engine import Database
    from serving.database.migrations import migrate
    from serving.settings import derived

    now = datetime.now(UTC)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    migrate(settings.database_url)
    database = Database(settings.database_url, pool_size=1)
    try:
        if ads is not None:
            import_catalogue(ads, CampaignStore(database), now, settings.bid_scale)
        accounts = AccountStore(database, [derived(one, "api keys") for one in secrets])
        if key_file := ensure_administrator(accounts, settings.state_dir, now):
            typer.echo(f"The administrator's key is in {key_file}", err=True)
    finally:
        database.close()


def supervise(
    count: int, arguments: Sequence[str], host: str, port: int, settings: ServeSettings, stop: threading.Event
) -> int:
    """Run `count` workers, each as `llm-auction ARGUMENTS`, until `stop` is set; return the exit status.

    An address that is in use is a ConfigError.
    """
    from cli.worker_metrics import serve_metrics

    listen(host, port).close()  # fails where any program listens; a shared address would admit it
    with share(host, port):  # held for as long as the supervisor lives, so that no other program takes the port
        workers = [Worker(number, count, arguments) for number in range(1, count + 1)]
        close_metrics = serve_metrics(settings.metrics_address, workers)
        try:
            for worker in workers:
                worker.start()
            while not stop.wait(POLL_S):
                for worker in workers:
                    if (status := worker.replace_if_exited()) is not None:
                        return status
            return 0
        finally:
            for worker in workers:
                worker.terminate()
            until = time.monotonic() + settings.drain_s + AFTER_DRAIN_S
            for worker in workers:
                worker.wait(until)
            close_metrics()
