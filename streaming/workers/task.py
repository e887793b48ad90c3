"""What a worker is to the run loop: a task that is given batches of events and says how far it is done with them."""

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
    """A worker that cannot go on by itself, and whose records are not at fault."""


class Arrival(NamedTuple):
    """One record and its event; None where a record without value removes its key from a compacted topic."""

    record: Record
    event: AnyEvent | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll brought, in the order of each partition; without arrivals it is a tick of the clock.

    `after` says where reading goes on in the partitions that gave records, refused ones counted. `behind` are those of
    the member's partitions whose end was not reached when it was last looked up, which is about every second and
    right after they are assigned; `looks` counts how often that was done.
    """

    arrivals: Sequence[Arrival] = ()
    after: Mapping[Partition, int] = field(default_factory=dict)
    behind: frozenset[Partition] = frozenset()
    looks: int = 0


def arrival(record: Record) -> Arrival:
    """A record with its event. Raises EventError for what is no event of its topic, or stands under another key."""
    if record.value is None:
        if record.topic == CAMPAIGNS:
            return Arrival(record, None)
        raise EventError(f"{record.topic} event", None, "a record of this topic has a value")
    event = decode(record.topic, record.value)
    if event.key.encode() != record.key:
        raise EventError(f"{record.topic} event {event.key}", "<key>", "give the record the event's key")
    return Arrival(record, event)


class Task(Protocol):
    """The part of a worker that is its own; called from one thread. Every method may raise: nothing is committed then,
    and the loop begins anew at what was committed or what `assigned` says, after `revoked` for all partitions."""

    @property
    def name(self) -> str:
        """Consumer group, and label of the metrics."""
        ...

    @property
    def topics(self) -> Sequence[str]:
        """What it reads."""
        ...

    @property
    def transient(self) -> tuple[type[Exception], ...]:
        """Errors of `process` and `assigned` that pass by themselves (a database or object store that is away), besides
        LogUnavailable and OSError: tried again for ever, with growing pauses."""
        ...

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        """New partitions; offsets to start from, where the task keeps them itself. Takes seconds at most."""
        ...

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Partitions that go: forget what belongs to them. It may be told of some that it never had."""
        ...

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Takes a batch; gives the offsets that may be committed now, as far as they changed. What lies before them is
        durable in the task's results, or not needed again. Raises InputError for a record that it cannot take: the
        loop then gives it the batch's records one by one, and sets aside the one that is refused again. Raises
        WorkerStopped where no record is at fault and waiting does not help."""
        ...

    def paused(self) -> frozenset[Partition]:
        """Partitions that shall give nothing for now, because others have to catch up with them."""
        ...

    def finish(self) -> Mapping[Partition, int]:
        """The worker ends: what is held back is written now. Gives offsets as `process`."""
        ...
