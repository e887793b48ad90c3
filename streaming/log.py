"""The event log's contract: append, poll, commit. Both implementations pass the same test suite.

`streaming.embedded` keeps the log in an SQLite file, `streaming.kafka` in Apache Kafka. Delivery is at least once: an
acknowledged record is never lost, but may be read again after a failure. Every consumer therefore recognises
repetitions by the event's id, or stores its offsets in the same transaction as its results.

Partitions are assigned, not negotiated: a consumer is created as member I of N and reads the partitions whose number
modulo N is I.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from mechanism.errors import AuctionError, ConfigError, InputError
from streaming.topics import Topic

Headers = tuple[tuple[str, bytes], ...]


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a partition.

    `timestamp` (UTC, to the millisecond) is when it was appended. Keys, values and headers may be personal, so `repr`
    omits them.
    """

    topic: str
    partition: int
    offset: int
    timestamp: datetime
    key: bytes = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: Headers = field(default=(), repr=False)

    @property
    def place(self) -> Partition:
        """The partition that holds the record."""
        return Partition(self.topic, self.partition)


class Appended(NamedTuple):
    """The place of an acknowledged record."""

    topic: str
    partition: int
    offset: int


class LogUnavailable(AuctionError):
    """The log cannot be reached or written now; a later attempt may succeed."""


class LogCorrupt(AuctionError):
    """The log's file is damaged, or is not a log; nothing was changed."""


class Fenced(AuctionError):
    """Another process has written results of the partition, so nothing of this process was written."""


def unowned(partition: Partition) -> InputError:
    """Return the error for a partition that the consumer does not own."""
    return InputError("partition", tuple(partition), "it belongs to another member, or was not discovered yet")


def without_group() -> InputError:
    """Return the error for a commit by a consumer without a group."""
    return InputError("group", "", "a consumer without a group has nowhere to commit: give it one")


@dataclass(frozen=True, slots=True)
class Member:
    """One of `count` consumers that share the partitions: it owns those whose number modulo `count` is `index`.

    Raises:
        ConfigError: if `index` is not 0 to `count` - 1.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            remedy = "give I/N: 0/1 for a single worker; 0/3, 1/3 and 2/3 for three"
            raise ConfigError("member", f"{self.index}/{self.count}", remedy)

    @classmethod
    def parse(cls, text: str) -> Member:
        """Parse a member written as I/N. The constructor's ConfigError propagates.

        Raises:
            ConfigError: if the text is not two numbers with a slash between them.
        """
        matched = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if matched is None:
            raise ConfigError(
                "member", text, "give I/N, such as 0/3: this worker's number, from 0, and how many there are"
            )
        return cls(int(matched[1]), int(matched[2]))

    def owns(self, partition: int) -> bool:
        """Return whether this member owns the partition of this number, in any topic."""
        return partition % self.count == self.index


ALONE = Member()


class Acknowledgement(Protocol):
    """The pending acknowledgement of an appended record."""

    def result(self, timeout_s: float) -> Appended:
        """Wait until the record is durable, and return its place.

        Raises:
            LogUnavailable: if it may not be durable.
        """
        ...


class LogProducer(Protocol):
    """Appends records; may be used from several threads.

    Records of one key keep their order as long as the topic's number of partitions does not change.
    """

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> Acknowledgement:
        """Queue a record. It is written together with others, and no later than `flush` or `result`.

        Raises:
            InputError: if the topic was not created, or the record is too large.
            LogUnavailable: if the log cannot be reached.
        """
        ...

    def flush(self, timeout_s: float) -> None:
        """Wait until all appended records are durable.

        Raises:
            LogUnavailable: if a record since the last flush may not be durable: append those records again.
        """
        ...

    def close(self) -> None:
        """Write the queued records, as far as that is possible now."""
        ...


class Consumer(Protocol):
    """Reads the partitions of one member; belongs to one thread.

    A partition starts at the offset that its group committed, or else at its oldest record. If the record at the wanted
    offset is no longer kept, reading continues at the oldest one. Two consumers may own the same partitions, so a task
    that stores results has to fence (`streaming.workers.task.Task`).
    """

    def discover(self) -> frozenset[Partition]:
        """Start to read this member's partitions that were created since the last call, and return them.

        The constructor makes the first call.
        """
        ...

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        """Return the next records, in the order of each partition; an empty list after `timeout_s` without any."""
        ...

    def assignment(self) -> frozenset[Partition]:
        """Return the partitions of this member that were discovered."""
        ...

    def position(self, partition: Partition) -> int:
        """Return the offset of the next record that `poll` returns.

        Raises:
            InputError: if this consumer does not own the partition.
        """
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Continue to read at `offset`.

        Raises:
            InputError: if this consumer does not own the partition.
        """
        ...

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Store durably the offsets at which the group continues.

        Raises:
            InputError: if this consumer does not own one of the partitions, or has no group.
            LogUnavailable: if the offsets may not have been stored.
        """
        ...

    def committed(self, partition: Partition) -> int | None:
        """Return the offset that the group committed last; None if it committed none."""
        ...

    def ends(self) -> dict[Partition, int]:
        """Return the offset after the newest record of each partition; the lag is this offset minus `position`."""
        ...

    def close(self) -> None:
        """Close the consumer's connections."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the consumer."""
        ...


class EventLog(Protocol):
    """Topics, and their producers and consumers."""

    @property
    def is_local(self) -> bool:
        """Whether the log is kept in files of this machine, so that it can be used without a network."""
        ...

    def create(self, topics: Iterable[Topic]) -> None:
        """Create missing topics, and missing partitions of existing topics; remove nothing.

        Raises:
            LogUnavailable: if the log cannot be reached or written.
        """
        ...

    def identity(self) -> str:
        """Return the unique id of this log, which a store keeps with the offsets of the log.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        ...

    def producer(self) -> LogProducer:
        """Open a producer; the caller closes it."""
        ...

    def consumer(self, group: str, topics: Sequence[str], member: Member = ALONE) -> Consumer:
        """Open a consumer; the caller closes it. `group` names its committed offsets; "" for one that commits none.

        Raises:
            InputError: if a topic was not created.
            LogUnavailable: if the log cannot be reached.
        """
        ...

    def maintain(self) -> None:
        """Remove records past their retention, unless the log's server does that itself."""
        ...

    def close(self) -> None:
        """Close the log; close its producers and consumers first."""
        ...


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    """Convert a record's timestamp, milliseconds since 1970, to an aware datetime."""
    return _EPOCH + milliseconds * _MILLISECOND


def to_ms(moment: datetime) -> int:
    """Convert an aware datetime to milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // _MILLISECOND
