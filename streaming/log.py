"""The event log as everybody sees it: what it is to append, to poll, to commit; implemented twice and tested once.

`streaming.embedded` keeps it in files of this machine, `streaming.kafka` in Apache Kafka. Delivery is at least once:
a record is never lost once it was acknowledged, and may come again after a failure, so every consumer tells
repetitions by the event's id, or stores its offsets together with its results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from mechanism.errors import AuctionError
from streaming.topics import Topic

Headers = tuple[tuple[str, bytes], ...]


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read. `timestamp` (UTC, to the millisecond) is when it was appended; a `value` of None
    removes the key from a compacted topic. Keys and values may be personal: they stay out of `repr`."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime
    key: bytes = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(default=(), repr=False)

    @property
    def place(self) -> Partition:
        """Where it stands."""
        return Partition(self.topic, self.partition)


class Appended(NamedTuple):
    """Where an acknowledged record stands."""

    topic: str
    partition: int
    offset: int


class LogUnavailable(AuctionError):
    """The log cannot be reached or written now; trying again later may help."""


class LogCorrupt(AuctionError):
    """A log's files hold what no crash leaves behind; nothing was changed."""


class Fenced(AuctionError):
    """The partition now belongs to another member of the group: its offset was not committed."""


def fenced(partition: Partition) -> Fenced:
    """The error for an offset of a partition that is not this member's."""
    return Fenced(f"{partition.topic} {partition.number}: belongs to another member now, read on without it")


class Acknowledgement(Protocol):
    """A record on its way."""

    def result(self, timeout_s: float) -> Appended:
        """Waits until the log has it durably. Raises LogUnavailable where it may not have it."""
        ...


class LogProducer(Protocol):
    """Appends records; may be used from several threads. Records of one key keep their order."""

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> Acknowledgement:
        """Hands over a record; it may wait for others before it is written, `flush` and `result` hurry it.

        Raises InputError for a topic that was not created or a record that is too large, LogUnavailable.
        """
        ...

    def flush(self, timeout_s: float) -> None:
        """Returns when all that was appended is durable. Raises LogUnavailable where something since the last flush
        may not be: append it again."""
        ...

    def close(self) -> None:
        """Writes what waits, as far as that works at once."""
        ...


OnAssigned = Callable[[Sequence[Partition]], Mapping[Partition, int] | None]
"""Told of new partitions, within `poll` (without a group, when the consumer is made). It may give offsets to start
from, which go before committed ones."""
OnRevoked = Callable[[Sequence[Partition]], Mapping[Partition, int] | None]
"""Told of partitions that are about to go to another member, within `poll` or `close`. It may give offsets to commit
for them. It should take seconds at most, and may call no method of the consumer."""


class Consumer(Protocol):
    """One member of a group; belongs to one thread. In a group every partition of its topics has one owner at a time;
    without a group ("") a consumer has all partitions and cannot commit.

    A partition starts at the offset that `on_assigned` gives, else at the committed one, else at the oldest record. The
    same holds where records at that offset are no longer kept: reading goes on at the oldest.
    """

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        """The next records, in the order of each partition; empty after `timeout_s` without any. Call it often, at
        least every few minutes: in between nobody else can get this member's partitions."""
        ...

    def assignment(self) -> frozenset[Partition]:
        """The partitions that are this member's now."""
        ...

    def position(self, partition: Partition) -> int:
        """The offset of the next record that `poll` gives. Raises InputError for a partition that is not ours."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Goes on reading at `offset`. Raises InputError for a partition that is not ours."""
        ...

    def pause(self, partitions: AbstractSet[Partition]) -> None:
        """From now on `poll` gives nothing of these (and of no others it holds back): for a task that reads partitions
        at one pace. What is not this member's is passed over."""
        ...

    def commit(self, offsets: Mapping[Partition, int] | None = None) -> None:
        """Durably says where the group goes on reading; without `offsets`, after what `poll` gave. Raises Fenced,
        LogUnavailable, and InputError without a group."""
        ...

    def committed(self, partition: Partition) -> int | None:
        """What the group committed last."""
        ...

    def ends(self) -> dict[Partition, int]:
        """The offset after the newest record of each of this member's partitions: less `position`, it is the lag."""
        ...

    def close(self) -> None:
        """Leaves the group, after `on_revoked`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes it."""
        ...


class EventLog(Protocol):
    """Topics, and who writes and reads them."""

    @property
    def is_local(self) -> bool:
        """Whether the log is kept in files of this machine, so that it can be used without a network."""
        ...

    def create(self, topics: Iterable[Topic]) -> None:
        """Creates the topics that are not there. Raises InputError where one is there with other partitions."""
        ...

    def identity(self) -> str:
        """Tells this log from every other one, wherever it is reached: who keeps offsets of his own keeps it with
        them. Raises LogUnavailable."""
        ...

    def producer(self) -> LogProducer:
        """A new producer; close it."""
        ...

    def consumer(
        self,
        group: str,
        topics: Sequence[str],
        on_assigned: OnAssigned | None = None,
        on_revoked: OnRevoked | None = None,
    ) -> Consumer:
        """A new member of a group; close it. Raises InputError for a topic that was not created."""
        ...

    def maintain(self) -> None:
        """Remove records past their retention; does nothing where the log's server does that itself."""
        ...

    def close(self) -> None:
        """Close what the log itself holds, after its producers and consumers."""
        ...


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    """Convert a record's timestamp, milliseconds since 1970, to an aware datetime."""
    return _EPOCH + milliseconds * _MILLISECOND


def to_ms(moment: datetime) -> int:
    """Convert an aware datetime to milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // _MILLISECOND
