"""The contract between the run loop and a worker's task: batches of events in, finished offsets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mechanism.errors import AuctionError
from streaming.codec import EventError, decode
from streaming.events import AnyEvent
from streaming.log import Partition, Record


class WorkerStopped(AuctionError):
    """A worker that cannot continue by itself, and whose records are not at fault."""


class Arrival(NamedTuple):
    """One record and its event."""

    record: Record
    event: AnyEvent


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one poll, in the order of each partition. A poll without records gives a batch without arrivals.

    `after` holds the next offset of each partition that returned records, refused records included. `behind` are the
    partitions whose end was not reached when the ends were last read, about every second; all partitions if the ends
    could not be read yet.
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
        raise EventError(f"{record.topic} event", None, "a record of this topic has a value")
    event = decode(record.topic, record.value)
    if event.key.encode() != record.key:
        raise EventError(f"{record.topic} event {event.key}", "<key>", "give the record the event's key")
    return Arrival(record, event)


class Task(Protocol):
    """What distinguishes one worker from another; called from one thread.

    Every method may raise. Nothing is committed then, and the loop restarts with `assigned` for all partitions.

    Two workers may own a partition at once, for instance while one replaces the other. A task whose results must not be
    written twice stores its offsets with them, in one transaction. The transaction compares the stored offsets with
    those that the task started from, and raises `streaming.log.Fenced` if they differ.
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
        """Temporary errors of `process` and `assigned`, after which the loop waits and tries again, without end.

        They are added to LogUnavailable and OSError, for instance for an unreachable database or object store.
        """
        ...

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        """Start or restart to process these partitions, and drop unfinished results of them.

        A task that stores its offsets itself returns those to start from. Partitions without one start at the offset
        that the group committed.
        """
        ...

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Process a batch, and return the offsets that may be committed.

        The results of all records before these offsets are durable, or are not needed again.

        Raises:
            InputError: if the task refuses a record. The loop passes the batch again record by record, and sends the
                record that is refused again to the dead letters.
            Fenced: if another worker has written results of a partition.
            WorkerStopped: if no record is at fault and waiting does not help.
        """
        ...

    def finish(self) -> Mapping[Partition, int]:
        """Write pending results before the worker ends; return offsets as `process` does."""
        ...
