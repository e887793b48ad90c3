"""The event log's contract: append, poll, commit. Implemented twice and tested by one suite.

`streaming.embedded` keeps the log in an SQLite file, `streaming.kafka` in Apache Kafka. Delivery is at least once: an
acknowledged record is never lost, and may come again after a failure, so every consumer recognises repetitions by the
event's id, or stores its offsets in the transaction of its results.

Partitions are owned, not negotiated: a consumer is created as member I of N and reads the partitions whose number
leaves I when divided by N.
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
    """One record as it was read.

    `timestamp` (UTC, to the millisecond) is when it was appended; a `value` of None removes the key from a compacted
    topic. Keys and values may be personal: `repr` omits them.
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
        """The partition that holds it."""
        return Partition(self.topic, self.partition)


class Appended(NamedTuple):
    """The place of an acknowledged record."""

    topic: str
    partition: int
    offset: int


class LogUnavailable(AuctionError):
    """The log cannot be reached or written now; a later attempt may succeed."""


class LogCorrupt(AuctionError):
    """The log's file is damaged, or is no log; nothing was changed."""


class Fenced(AuctionError):
    """Another process has written the partition's results meanwhile: nothing of this one's was written."""


def unowned(partition: Partition) -> InputError:
    """Return the error for a partition that is not this consumer's."""
    return InputError("partition", tuple(partition), "it belongs to another member, or was not discovered yet")


def without_group() -> InputError:
    """Return the error for a commit by a consumer without a group."""
    return InputError("group", "", "a consumer without a group has nowhere to commit: give it one")


@dataclass(frozen=True, slots=True)
class Member:
    """One of `count` consumers that share the partitions: it owns those whose number leaves `index` as remainder.

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
        """Read a member written as I/N (errors as the constructor's)."""
        matched = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if matched is None:
            raise ConfigError(
                "member", text, "give I/N, such as 0/3: this worker's number, from 0, and how many there are"
            )
        return cls(int(matched[1]), int(matched[2]))

    def owns(self, partition: int) -> bool:
        """Tell whether a partition of this number, of whatever topic, is this member's."""
        return partition % self.count == self.index


ALONE = Member()


class Acknowledgement(Protocol):
    """A record on its way."""

    def result(self, timeout_s: float) -> Appended:
        """Wait until the record is durable (LogUnavailable if it may not be)."""
        ...


class LogProducer(Protocol):
    """Appends records; may be used from several threads. Records of one key keep their order while the topic's number
    of partitions stays the same."""

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> Acknowledgement:
        """Queue a record. It is written together with others, at the latest by `flush` or `result`.

        Raises:
            InputError: if the topic was not created, or the record is too large.
            LogUnavailable: if the log cannot be reached.
        """
        ...

    def flush(self, timeout_s: float) -> None:
        """Return when everything that was appended is durable.

        Raises:
            LogUnavailable: if something since the last flush may not be: append it again.
        """
        ...

    def close(self) -> None:
        """Write what is queued, as far as that works at once."""
        ...


class Consumer(Protocol):
    """Reads the partitions of one member; belongs to one thread.

    A partition starts at the offset that its group committed, else at the oldest record. Reading also continues at the
    oldest record where those at the wanted offset are no longer kept. Nothing keeps two consumers from owning the same
    partitions: whoever stores results fences (`streaming.workers.task.Task`).
    """

    def discover(self) -> frozenset[Partition]:
        """Start to read the partitions that were created meanwhile and are this member's; return them. The first ones
        are discovered when the consumer is created."""
        ...

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        """Return the next records, in the order of each partition; an empty list after `timeout_s` without any."""
        ...

    def assignment(self) -> frozenset[Partition]:
        """Return the discovered partitions of this member."""
        ...

    def position(self, partition: Partition) -> int:
        """Return the offset of the next record that `poll` returns (InputError for a partition that is not ours)."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Continue at `offset` (InputError for a partition that is not ours)."""
        ...

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Store durably where the group continues, as given by this consumer's task.

        Raises:
            InputError: for a partition that is not ours, or without a group.
            LogUnavailable: if it may not be stored.
        """
        ...

    def committed(self, partition: Partition) -> int | None:
        """Return what the group committed last; None if it never did."""
        ...

    def ends(self) -> dict[Partition, int]:
        """Return the offset after the newest record of each partition: minus `position`, it is the lag."""
        ...

    def close(self) -> None:
        """Free what the consumer holds."""
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
        """Create the topics that are missing, and the partitions that a topic has too few of; remove nothing.

        Raises:
            LogUnavailable: if the log cannot be reached or written.
        """
        ...

    def identity(self) -> str:
        """Return what distinguishes this log from every other one: a store of offsets keeps it with them.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        ...

    def producer(self) -> LogProducer:
        """Open a producer; close it."""
        ...

    def consumer(self, group: str, topics: Sequence[str], member: Member = ALONE) -> Consumer:
        """Open a consumer; close it. `group` names its committed offsets; "" for one that commits none.

        Raises:
            InputError: if a topic was not created.
            LogUnavailable: if the log cannot be reached.
        """
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
