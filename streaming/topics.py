"""The topics: names, partitions, how long they are kept, and which event each one carries.

Interactions, clicks, conversions and judgements of an auction have its id as their key. A topic may get more
partitions at any time; the records of a key then continue in another partition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from zlib import crc32

from mechanism.errors import ConfigError, InputError

PARTITIONS = 3
DLQ_SUFFIX = ".dlq"
LARGEST_RECORD = 4 << 20
"""Bytes of key, value and headers together."""
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. A `retention` of None keeps records for ever."""

    name: str
    partitions: int = PARTITIONS
    retention: timedelta | None = timedelta(days=30)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError("topic", self.name, "use a-z, 0-9, '.', '_' and '-', a letter first, 100 at most")
        if not 1 <= self.partitions <= 10_000:
            raise ConfigError(f"partitions of topic {self.name}", self.partitions, "give 1 to 10000")
        if self.retention is not None and self.retention <= timedelta(0):
            raise ConfigError(f"retention of topic {self.name}", str(self.retention), "give a time, or None for ever")

    @property
    def dlq(self) -> Topic:
        """The topic of records that no consumer can process. It holds the same data, so it has the same retention."""
        return Topic(self.name + DLQ_SUFFIX, 1, self.retention or timedelta(days=30))


MARKS = Topic("dead-letters.handled", 1, timedelta(days=365))
"""Which dead letters were replayed or discarded (`streaming.workers.letters`)."""
INTERACTIONS, CLICKS, CONVERSIONS, JUDGEMENTS = EVENT_TOPICS = ("interactions", "clicks", "conversions", "judgements")


def all_topics(partitions: int = PARTITIONS, retention: timedelta = timedelta(days=30)) -> tuple[Topic, ...]:
    """Return every topic of the project, those of dead letters included."""
    topics = [Topic(name, partitions, retention) for name in EVENT_TOPICS]
    return tuple(topics + [topic.dlq for topic in topics])


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key, on every event log: 0 to `partitions` - 1."""
    return crc32(key) % partitions


def check_size(topic: str, key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> int:
    """Return the size of a record in bytes.

    Raises:
        InputError: if it is larger than LARGEST_RECORD.
    """
    size = len(key) + len(value or b"") + sum(len(name) + len(content) for name, content in headers)
    if size > LARGEST_RECORD:
        raise InputError(f"record for {topic}", f"<{size} bytes>", f"records hold {LARGEST_RECORD} bytes at most")
    return size
