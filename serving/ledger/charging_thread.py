"""The ledger worker on a thread: of the process that charges for a router, or of a router that does so itself."""

from __future__ import annotations

import threading

import structlog

from serving.database.engine import Database
from serving.ledger.charging import ChargingSettings, ChargingTask, Told
from streaming.addresses import ensure
from streaming.log import EventLog
from streaming.topics import all_topics
from streaming.workers.loop import PAUSES_S, Worker
from streaming.workers.task import WorkerStopped

log = structlog.get_logger(__name__)

POLL_S = 0.5
LAST_S = 5.0
"""How long a transaction under way may take at the end."""


class ChargingThread:
    """Charges a log to a database; `told` is called on its thread."""

    def __init__(self, event_log: EventLog, database: Database, told: Told, gathered_s: float) -> None:
        self._log = event_log
        task = ChargingTask(event_log, database, ChargingSettings(gathered_s=gathered_s), told=told)
        self._worker = Worker(task, event_log, poll_s=min(POLL_S, gathered_s))
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Begins with what an earlier process left."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Charges what the log holds by now, for at most that long, and ends; the rest waits for the next start."""
        self._stopping.set()
        self._thread.join(within_s)
        self._over.set()
        self._thread.join(LAST_S)

    def _run(self) -> None:
        failures = 0
        while not self._over.is_set():
            try:
                ensure(self._log, all_topics())
                self._worker.run(self._stopping)
                self._worker.run(self._over, until_idle=True)
                return
            except WorkerStopped as error:
                log.error("charging stopped", reason=str(error)[:300])
            except Exception as error:
                # Whatever it is, the log keeps the events: nothing is lost but time.
                log.error("charging failed", reason=type(error).__name__)
            self._over.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1
