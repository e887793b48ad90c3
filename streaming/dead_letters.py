"""Records that no consumer can take: set aside on `<topic>.dlq` with where they stood and why, and brought back.

Key, value and headers stay as they were; what is added stands in headers that begin with `dlq.`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from mechanism.errors import InputError
from streaming.log import Acknowledgement, LogProducer, Record
from streaming.topics import DLQ_SUFFIX

PREFIX = "dlq."
LONGEST_ERROR = 1_000


class Fate(msgspec.Struct, frozen=True):
    """Where a dead letter stood, and why it is one. `offset` is -1 for what was refused before it was in a log.
    `timestamp` is when it was appended there."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime
    error: str


def bury(producer: LogProducer, record: Record, error: Exception) -> Acknowledgement:
    """Appends a record to its topic's dead letters; commit past it once that is acknowledged."""
    told = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": record.timestamp.astimezone(UTC).isoformat(timespec="milliseconds"),
        "error": f"{type(error).__name__}: {error}"[:LONGEST_ERROR],
    }
    own = tuple(header for header in record.headers if not header[0].startswith(PREFIX))
    added = tuple((PREFIX + name, value.encode(errors="replace")) for name, value in told.items())
    return producer.append(record.topic + DLQ_SUFFIX, record.key, record.value, own + added)


def fate(letter: Record) -> Fate:
    """What the headers of a dead letter say. Raises InputError where they are not those of one."""
    told = {name.removeprefix(PREFIX): value.decode() for name, value in letter.headers if name.startswith(PREFIX)}
    try:
        return msgspec.convert(told, Fate, strict=False)
    except msgspec.ValidationError as error:
        place = f"headers of {letter.topic} {letter.partition}:{letter.offset}"
        raise InputError(place, sorted(told), f"{error}: this is not a dead letter") from None


def revive(producer: LogProducer, letter: Record) -> Acknowledgement:
    """Appends a dead letter to its own topic again, without what was added. Raises InputError as `fate`."""
    own = tuple(header for header in letter.headers if not header[0].startswith(PREFIX))
    return producer.append(fate(letter).topic, letter.key, letter.value, own)
