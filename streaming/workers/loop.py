"""The run loop of every worker: poll, decode, process, commit, over and over, until it is told to stop.

It knows no event's meaning. Records that are no event, or that the task refuses, go to the topic's dead letters; a log
or a store that is away is waited for; a batch that fails is begun anew, so a task sees a record at least once.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry

from mechanism.errors import AuctionError, InputError
from streaming.codec import EventError
from streaming.dead_letters import dead_letter
from streaming.log import Consumer, EventLog, Fenced, LogProducer, LogUnavailable, Partition, Record
from streaming.workers.metrics import WorkerMetrics
from streaming.workers.task import Arrival, Batch, Task, WorkerStopped, arrival

log = structlog.get_logger(__name__)

POLL_S = 0.5
MOST = 500
COMMIT_S = 1.0
LOOK_S = 1.0
"""How often the ends of the partitions are looked up."""
DEAD_LETTER_S = 30.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
MOST_UNEXPECTED = 10
"""So many records in a row may fail in a way that no task plans for; then the worker stops: the fault is its own."""
_TRANSIENT = (LogUnavailable, OSError)


class _Interrupted(Exception):
    """A batch was not finished: begin anew at once."""


class Worker:
    """One process's worker. `most` bounds a batch; `poll_s` is how long a tick of the clock lets wait for itself."""

    def __init__(
        self,
        task: Task,
        log: EventLog,
        *,
        metrics: WorkerMetrics | None = None,
        most: int = MOST,
        poll_s: float = POLL_S,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._task = task
        self._log = log
        self._most = most
        self._poll_s = poll_s
        self._pauses_s = pauses_s
        self.metrics = metrics or WorkerMetrics(CollectorRegistry())
        self._passing: tuple[type[Exception], ...] = (*_TRANSIENT, *task.transient)
        self._done: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}
        self._behind: frozenset[Partition] = frozenset()
        self._owned: set[Partition] = set()
        self._looks = 0
        self._look_at = 0.0
        self._commit_at = 0.0
        self._letters: LogProducer | None = None
        self._suspects: dict[Partition, int] = {}
        self._refused: defaultdict[Partition, set[int]] = defaultdict(set)
        self._unexpected = 0
        self._failures = 0
        self._idle = False

    def run(self, stop: threading.Event, *, until_idle: bool = False) -> None:
        """Works until `stop` is set; with `until_idle`, until all that the log holds was processed and the task has
        nothing more to say. Raises WorkerStopped, ConfigError, and InputError for topics that are not there."""
        self._failures = 0
        while not stop.is_set():
            try:
                self._session(stop, until_idle=until_idle)
                return
            except _Interrupted:
                continue
            except Fenced as error:
                self._count("fenced")
                log.info("begins anew", worker=self._task.name, reason=str(error))
                stop.wait(self._pauses_s[0])
            except self._passing as error:
                self._count("unavailable")
                pause = self._pauses_s[min(self._failures, len(self._pauses_s) - 1)]
                log.warning("waits", worker=self._task.name, reason=_told(error), seconds=pause)
                self._failures += 1
                stop.wait(pause)

    def _session(self, stop: threading.Event, *, until_idle: bool) -> None:
        """From joining the group to leaving it."""
        self._done, self._committed, self._behind = {}, {}, frozenset()
        self._look_at = self._commit_at = 0.0
        consumer = self._log.consumer(self._task.name, self._task.topics, self._assigned, self._revoked)
        whole = False
        try:
            while not stop.is_set() and not (until_idle and self._idle):
                self._step(consumer)
            self._keep(self._task.finish())
            self._commit(consumer)
            whole = True
        finally:
            if not whole:
                self._done = {}
            self._leave(consumer, whole=whole)

    def _leave(self, consumer: Consumer, *, whole: bool) -> None:
        """Frees everything; what fails here is told only where nothing failed before."""
        letters, self._letters = self._letters, None
        try:
            if whole:
                consumer.close()
            else:
                with suppress(AuctionError, OSError):
                    consumer.close()
        finally:
            # A task that was never told (the log was away) must not go on with old state.
            self._task.revoked(sorted(self._owned))
            self._owned.clear()
            if letters is not None:
                letters.close()

    def _step(self, consumer: Consumer) -> None:
        """One turn: a poll, its batches, and a commit when it is time."""
        consumer.pause(self._task.paused())
        records = consumer.poll(self._poll_s, self._most)
        now = time.monotonic()
        if now >= self._look_at:
            self._look(consumer)
            self._look_at = now + LOOK_S
        said = 0
        parts = self._parts(records)
        for i, part in enumerate(parts):
            # What was polled but not given yet is not read, as far as the task is concerned.
            ahead = frozenset(record.place for later in parts[i + 1 :] for record in later)
            said += self._process(part, self._behind | ahead)
        self._failures = 0
        if now >= self._commit_at:
            self._commit(consumer)
            self._commit_at = now + COMMIT_S
        assigned = bool(consumer.assignment())
        self._idle = assigned and not records and not said and not self._behind and not self._task.paused()

    def _parts(self, records: list[Record]) -> list[list[Record]]:
        """The batch as a whole, or record by record where one of them failed before."""
        if any(record.offset < self._suspects.get(record.place, 0) for record in records):
            return [[record] for record in records]
        return [records]

    def _process(self, records: list[Record], behind: frozenset[Partition]) -> int:
        """Gives a batch to the task; how many offsets it moved on."""
        after: dict[Partition, int] = {}
        arrivals = []
        for record in records:
            after[record.place] = record.offset + 1
            if record.offset in self._refused.get(record.place, ()):
                continue
            try:
                arrivals.append(arrival(record))
            except EventError as error:
                self._refuse(record, error)
        began = time.perf_counter()
        try:
            done = self._task.process(Batch(arrivals, after, behind, self._looks))
        except Exception as error:
            if isinstance(error, (Fenced, WorkerStopped, *self._passing)):
                raise
            self._failed(arrivals, error)
            raise _Interrupted from error
        said = self._keep(done)
        if records:
            self.metrics.took(self._task.name, records, time.perf_counter() - began)
        if arrivals:
            self._unexpected = 0
        return said

    def _failed(self, arrivals: Sequence[Arrival], error: Exception) -> None:
        """Finds the record of a batch that the task cannot take: alone, it goes to the dead letters."""
        planned = isinstance(error, InputError)
        self._count("refused" if planned else "unexpected")
        if len(arrivals) > 1:
            for record, _ in arrivals:
                self._suspects[record.place] = max(record.offset + 1, self._suspects.get(record.place, 0))
            return
        self._unexpected += not planned
        if not arrivals or self._unexpected > MOST_UNEXPECTED:
            raise WorkerStopped(
                f"worker {self._task.name}: {_told(error)}: nothing was lost; mend the cause and start it again"
            ) from error
        self._refuse(arrivals[0].record, error)

    def _refuse(self, record: Record, error: Exception) -> None:
        """To the dead letters, durably; this process passes over it from now on."""
        if self._letters is None:
            self._letters = self._log.producer()
        dead_letter(self._letters, record, error).result(DEAD_LETTER_S)
        self._refused[record.place].add(record.offset)
        self.metrics.dead_letter(self._task.name, record.topic)
        log.error(
            "set aside",
            worker=self._task.name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=_told(error),
        )

    def _count(self, kind: str) -> None:
        self.metrics.failed(self._task.name, kind)

    def _keep(self, done: Mapping[Partition, int]) -> int:
        """Offsets to commit; how many of them are new."""
        new = {partition: offset for partition, offset in done.items() if self._done.get(partition) != offset}
        self._done.update(new)
        return len(new)

    def _commit(self, consumer: Consumer) -> None:
        """A commit that fails is no harm: the next one says more, and a new owner reads a little again."""
        ours = consumer.assignment()
        new = {p: o for p, o in self._done.items() if p in ours and self._committed.get(p) != o}
        if not new:
            return
        try:
            consumer.commit(new)
        except (Fenced, LogUnavailable) as error:
            self._count("fenced" if isinstance(error, Fenced) else "unavailable")
            log.info("not committed", worker=self._task.name, reason=_told(error))
            return
        self._committed.update(new)

    def _look(self, consumer: Consumer) -> None:
        """Where the ends are, and so what is behind: everything, where that cannot be told now."""
        try:
            ends = consumer.ends()
            lags = {partition: end - consumer.position(partition) for partition, end in ends.items()}
        except LogUnavailable as error:
            self._count("unavailable")
            log.warning("cannot see the ends", worker=self._task.name, reason=_told(error))
            self._behind = consumer.assignment()
            return
        self._looks += 1
        self._behind = frozenset(partition for partition, lag in lags.items() if lag > 0)
        self.metrics.lags(self._task.name, lags)
        for partition, refused in self._refused.items():
            committed = self._committed.get(partition, 0)
            self._refused[partition] = {offset for offset in refused if offset >= committed}

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        self.metrics.rebalanced(self._task.name)
        self._owned.update(partitions)
        self._behind |= frozenset(partitions)
        self._look_at = 0.0
        return self._task.assigned(partitions)

    def _revoked(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._task.revoked(partitions)
        self._owned.difference_update(partitions)
        self._behind -= frozenset(partitions)
        self.metrics.gone(self._task.name, partitions)
        self._committed = {p: o for p, o in self._committed.items() if p not in partitions}
        return {p: self._done.pop(p) for p in partitions if p in self._done}


def _told(error: BaseException) -> str:
    """An error for the log. What is not this project's own may quote a record, so only its kind is told."""
    own = isinstance(error, AuctionError | OSError)
    return (f"{type(error).__name__}: {error}" if own else type(error).__name__)[:300]
