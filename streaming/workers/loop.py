"""The run loop of every worker: poll, process, commit, until it is stopped.

The loop does not interpret events. It waits while the log or a store is unreachable, and reads a failed batch again, so
that a task gets each record at least once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import structlog
from prometheus_client import CollectorRegistry

from streaming.log import ALONE, Consumer, EventLog, Fenced, LogUnavailable, Member, Partition
from streaming.workers.delivery import BatchFailed, Delivery, loggable
from streaming.workers.metrics import WorkerMetrics
from streaming.workers.task import Task

log = structlog.get_logger(__name__)

POLL_S = 0.5
MOST = 500
COMMIT_S = 1.0
READ_ENDS_S = 1.0
"""Interval at which the ends of the partitions are read."""
DISCOVER_S = 5.0
"""Interval at which new partitions are discovered."""
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)


class Worker:
    """The worker of one process, or one of several that share the partitions (`member`).

    `most` bounds a batch; `poll_s` is the longest time between two batches, empty ones included.
    """

    def __init__(
        self,
        task: Task,
        log: EventLog,
        member: Member = ALONE,
        *,
        metrics: WorkerMetrics | None = None,
        most: int = MOST,
        poll_s: float = POLL_S,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._task = task
        self._log = log
        self._member = member
        self._most = most
        self._poll_s = poll_s
        self._pauses_s = pauses_s
        self.metrics = metrics or WorkerMetrics(CollectorRegistry())
        self._delivery = Delivery(task, log, self.metrics)
        self._failures = 0

    def run(self, stop: threading.Event, *, until_idle: bool = False) -> None:
        """Work until `stop` is set; with `until_idle`, until the log's end is reached and the task has no work left.

        Errors that waiting does not cure propagate: WorkerStopped if the task cannot continue, ConfigError if the log
        refuses this program's credentials or rights, InputError if a topic was not created.
        """
        self._failures = 0
        while not stop.is_set():
            try:
                self._run_session(stop, until_idle=until_idle)
                return
            except BatchFailed:
                continue
            except Fenced as error:
                self.metrics.failed(self._task.name, "fenced")
                log.warning("worker.fenced", worker=self._task.name, reason=loggable(error))
                stop.wait(self._pauses_s[0])
            except self._delivery.transient as error:
                self.metrics.failed(self._task.name, "unavailable")
                pause = self._pauses_s[min(self._failures, len(self._pauses_s) - 1)]
                log.warning("worker.waiting", worker=self._task.name, reason=loggable(error), seconds=pause)
                self._failures += 1
                stop.wait(pause)

    def _run_session(self, stop: threading.Event, *, until_idle: bool) -> None:
        """Work until `run` is to end, or until the first error."""
        try:
            with self._log.consumer(self._task.name, self._task.topics, self._member) as consumer:
                session = _Session(consumer, self._task, self._delivery, self.metrics)
                idle = False
                while not stop.is_set() and not (until_idle and idle):
                    idle = session.step(self._poll_s, self._most)
                    self._failures = 0
                session.end()
        finally:
            self._delivery.close()


class _Session:
    """The work between two failures: the offsets finished and committed since the task started."""

    def __init__(self, consumer: Consumer, task: Task, delivery: Delivery, metrics: WorkerMetrics) -> None:
        self._consumer = consumer
        self._task = task
        self._delivery = delivery
        self._metrics = metrics
        self._done: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._behind: frozenset[Partition] = frozenset()
        self._read_ends_at = 0.0
        self._commit_at = self._discover_at = time.monotonic()
        self._start(consumer.assignment())

    def step(self, poll_s: float, most: int) -> bool:
        """Poll once, process the records, commit if a commit is due; return whether no work is left."""
        records = self._consumer.poll(poll_s, most)
        now = time.monotonic()
        if now >= self._read_ends_at:
            self._read_ends()
            self._read_ends_at = now + READ_ENDS_S
        moved = False
        batches = self._delivery.batches(records)
        for i, batch in enumerate(batches):
            # Polled records that were not given to the task yet count as unread.
            ahead = frozenset(record.place for later in batches[i + 1 :] for record in later)
            moved |= self._keep(self._delivery.give(batch, self._behind | ahead))
        if now >= self._commit_at:
            self._commit()
            self._commit_at = now + COMMIT_S
        if now >= self._discover_at:
            if new := self._consumer.discover():
                self._start(new)
            self._discover_at = now + DISCOVER_S
        return not (records or moved or self._behind)

    def end(self) -> None:
        """Have the task write its pending results, and commit."""
        self._keep(self._task.finish())
        self._commit()

    def _start(self, partitions: AbstractSet[Partition]) -> None:
        """Assign partitions to the task, and seek the offsets that it returns."""
        for partition, offset in (self._task.assigned(sorted(partitions)) or {}).items():
            self._consumer.seek(partition, offset)
        self._behind |= partitions
        self._read_ends_at = 0.0
        self._metrics.owns(self._task.name, len(self._consumer.assignment()))

    def _keep(self, done: Mapping[Partition, int]) -> bool:
        """Store finished offsets; return whether one of them is new."""
        moved = any(self._done.get(partition) != offset for partition, offset in done.items())
        self._done.update(done)
        return moved

    def _commit(self) -> None:
        """Commit new offsets. A failure is only logged: the next commit includes them, and tasks accept repetitions."""
        new = {p: offset for p, offset in self._done.items() if self._committed.get(p) != offset}
        if not new:
            return
        try:
            self._consumer.commit(new)
        except LogUnavailable as error:
            self._metrics.failed(self._task.name, "unavailable")
            log.warning("worker.not_committed", worker=self._task.name, reason=loggable(error))
            return
        self._committed.update(new)
        self._delivery.committed(new)

    def _read_ends(self) -> None:
        """Determine which partitions are behind: all of them while the log's ends cannot be read."""
        try:
            ends = self._consumer.ends()
            lags = {partition: end - self._consumer.position(partition) for partition, end in ends.items()}
        except LogUnavailable as error:
            self._metrics.failed(self._task.name, "unavailable")
            log.warning("worker.ends_unknown", worker=self._task.name, reason=loggable(error))
            self._behind = self._consumer.assignment()
            return
        self._behind = frozenset(partition for partition, lag in lags.items() if lag > 0)
        self._metrics.lags(self._task.name, lags)
