"""The contract between the run loop and a worker's task: batches of events in, finished offsets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mechanism.errors import AuctionError
from streaming.codec import EventError, decode
from streaming.events import AnyEvent
from streaming.log import Partition, Record
from streaming.topics import CAMPAIGNS


class WorkerStopped(AuctionError):
    """A worker that cannot continue by itself, and whose records are not at fault."""


class Arrival(NamedTuple):
    """One record and its event; None for a record without value, which removes its key from a compacted topic."""

    record: Record
    event: AnyEvent | None


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one poll, in the order of each partition; without arrivals it is a tick of the clock.

    `after` holds the next offset of each partition that returned records, refused ones included. `behind` are the
    partitions whose end was not reached when the ends were last read, which is about every second; until they could be
    read, all.
    """

    arrivals: Sequence[Arrival] = ()
    after: Mapping[Partition, int] = field(default_factory=dict)
    behind: frozenset[Partition] = frozenset()


def arrival(record: Record) -> Arrival:
    """Decode a record.

    Raises:
        EventError: if it is no event of its topic, or has another key than its event.
    """
    if record.value is None:
        if record.topic == CAMPAIGNS:
            return Arrival(record, None)
        raise EventError(f"{record.topic} event", None, "a record of this topic has a value")
    event = decode(record.topic, record.value)
    if event.key.encode() != record.key:
        raise EventError(f"{record.topic} event {event.key}", "<key>", "give the record the event's key")
    return Arrival(record, event)


class Task(Protocol):
    """What distinguishes one worker from another; called from one thread.

    Every method may raise. Nothing is committed then, and the loop starts again with `assigned` for all partitions.

    Two workers may own a partition at once, for instance while one replaces another. A task whose results must not be
    written twice keeps its offsets with them: it stores both in one transaction that compares the stored offsets with
    those it started from, and raises `streaming.log.Fenced` where they differ.
    """

    @property
    def name(self) -> str:
        """Name of the committed offsets (the consumer group), and label of the metrics."""
        ...

    @property
    def topics(self) -> Sequence[str]:
        """The topics to read."""
        ...

    @property
    def transient(self) -> tuple[type[Exception], ...]:
        """Errors of `process` and `assigned` that pass by themselves (a database or object store is unreachable), in
        addition to LogUnavailable and OSError: the loop waits and tries again, without end."""
        ...

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        """Start at these partitions, or start again: forget what is held of them and not finished.

        Returns the offsets to start from, for a task that stores them itself; the others start where the group
        committed.
        """
        ...

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Process a batch. Return the offsets that may be committed: everything before them is durable in the task's
        results, or not needed again.

        Raises:
            InputError: for a record that the task refuses. The loop passes the batch again record by record, and sends
                the one that is refused again to the dead letters.
            Fenced: if another worker has written the results of a partition meanwhile.
            WorkerStopped: if no record is at fault and waiting does not help.
        """
        ...

    def finish(self) -> Mapping[Partition, int]:
        """Write what is held back, as the worker ends; returns offsets as `process`."""
        ...
