"""Delivery of records to a task: decoding, dead letters, and the search for the record that a task refuses."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import structlog

from mechanism.errors import AuctionError, InputError
from streaming.codec import EventError
from streaming.dead_letters import dead_letter
from streaming.log import EventLog, Fenced, LogProducer, LogUnavailable, Partition, Record
from streaming.workers.metrics import WorkerMetrics
from streaming.workers.task import Arrival, Batch, Task, WorkerStopped, arrival

log = structlog.get_logger(__name__)

DEAD_LETTER_S = 30.0
MOST_UNEXPECTED = 10
"""Consecutive records that may fail with an unexpected error. After one more the worker stops: the defect is then the
worker's, and must not move a whole topic to the dead letters."""


class BatchFailed(Exception):
    """A batch failed. Read it again at once: its records are then delivered one by one, to find the one at fault."""


class Delivery:
    """Passes records to a task. It outlives the loop's sessions, to remember suspected and refused records."""

    def __init__(self, task: Task, event_log: EventLog, metrics: WorkerMetrics) -> None:
        self._task = task
        self._log = event_log
        self._metrics = metrics
        self.transient: tuple[type[Exception], ...] = (LogUnavailable, OSError, *task.transient)
        self._letters: LogProducer | None = None
        self._suspects: dict[Partition, int] = {}
        """By partition, the offset after the last record of a batch that failed."""
        self._refused: defaultdict[Partition, set[int]] = defaultdict(set)
        self._unexpected = 0

    def batches(self, records: list[Record]) -> list[list[Record]]:
        """Return the records as one batch, or one by one if one of them is suspected."""
        if any(record.offset < self._suspects.get(record.place, 0) for record in records):
            return [[record] for record in records]
        return [records]

    def give(self, records: Sequence[Record], behind: frozenset[Partition]) -> Mapping[Partition, int]:
        """Have the task process one batch; return the offsets that it has finished.

        The task's transient errors propagate.

        Raises:
            BatchFailed: if the batch failed and is to be read again.
            Fenced: if another worker has written results of one of the partitions.
            WorkerStopped: if the task cannot continue, or too many records failed unexpectedly.
        """
        after = {record.place: record.offset + 1 for record in records}
        arrivals = []
        for record in records:
            if record.offset in self._refused.get(record.place, ()):
                continue
            try:
                arrivals.append(arrival(record))
            except EventError as error:
                self._refuse(record, error)
        began = time.perf_counter()
        try:
            done = self._task.process(Batch(arrivals, after, behind))
        except (Fenced, WorkerStopped):
            raise
        except self.transient:
            raise
        except Exception as error:
            self._failed(arrivals, error)
            raise BatchFailed from error
        if records:
            self._metrics.took(self._task.name, records, time.perf_counter() - began)
        if arrivals:
            self._unexpected = 0
        return done

    def committed(self, offsets: Mapping[Partition, int]) -> None:
        """Remove the refused records before these offsets from memory, as they are not read again."""
        for partition, offset in offsets.items():
            if partition in self._refused:
                self._refused[partition] = {refused for refused in self._refused[partition] if refused >= offset}

    def close(self) -> None:
        """Close the producer of dead letters; the next dead letter opens another."""
        letters, self._letters = self._letters, None
        if letters is not None:
            letters.close()

    def _failed(self, arrivals: Sequence[Arrival], error: Exception) -> None:
        """Suspect every record of a failed batch; send a record that failed alone to the dead letters.

        Raises:
            WorkerStopped: if no record is at fault, or too many records failed unexpectedly.
        """
        planned = isinstance(error, InputError)
        self._metrics.failed(self._task.name, "refused" if planned else "unexpected")
        if len(arrivals) > 1:
            for record, _ in arrivals:
                self._suspects[record.place] = max(record.offset + 1, self._suspects.get(record.place, 0))
            return
        self._unexpected += not planned
        if not arrivals or self._unexpected > MOST_UNEXPECTED:
            remedy = "nothing was lost: correct the cause and start it again"
            raise WorkerStopped(f"worker {self._task.name}: {loggable(error)}: {remedy}") from error
        self._refuse(arrivals[0].record, error)

    def _refuse(self, record: Record, error: Exception) -> None:
        """Send a record to the dead letters, durably, and skip it from now on."""
        if self._letters is None:
            self._letters = self._log.producer()
        dead_letter(self._letters, record, error).result(DEAD_LETTER_S)
        self._refused[record.place].add(record.offset)
        self._metrics.dead_letter(self._task.name, record.topic)
        log.error(
            "worker.dead_letter",
            worker=self._task.name,
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=loggable(error),
        )


def loggable(error: BaseException) -> str:
    """Return an error as text for the log; only its type if it is a third party's, which may quote a record."""
    own = isinstance(error, AuctionError | OSError)
    return (f"{type(error).__name__}: {error}" if own else type(error).__name__)[:300]
