"""Dead letters: records that no consumer can process, on `<topic>.dlq` with their origin and error, and their replay.

Key, value and headers are unchanged; the origin is kept in headers that begin with `dlq.`.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from mechanism.errors import InputError
from streaming.codec import NEWEST, PERSONAL
from streaming.log import Acknowledgement, LogProducer, Record
from streaming.topics import DLQ_SUFFIX

PREFIX = "dlq."
LONGEST_ERROR = 1_000


class Origin(msgspec.Struct, frozen=True):
    """Where a dead letter was read, and the error that made it one.

    `offset` is -1 for a record that was refused before it was in a log. `timestamp` is when it was appended there.
    """

    topic: str
    partition: int
    offset: int
    timestamp: datetime
    error: str


def dead_letter(producer: LogProducer, record: Record, error: Exception) -> Acknowledgement:
    """Append a record to its topic's dead letters; commit past it once that is acknowledged."""
    fields = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp": record.timestamp.astimezone(UTC).isoformat(timespec="milliseconds"),
        "error": f"{type(error).__name__}: {error}"[:LONGEST_ERROR],
    }
    added = tuple((PREFIX + name, value.encode(errors="replace")) for name, value in fields.items())
    return producer.append(record.topic + DLQ_SUFFIX, record.key, record.value, _own_headers(record) + added)


def origin(letter: Record) -> Origin:
    """Decode the origin in the headers of a dead letter.

    Raises:
        InputError: if the record has no such headers.
    """
    fields = {name.removeprefix(PREFIX): value.decode() for name, value in letter.headers if name.startswith(PREFIX)}
    try:
        return msgspec.convert(fields, Origin, strict=False)
    except msgspec.ValidationError as error:
        place = f"headers of {letter.topic} {letter.partition}:{letter.offset}"
        raise InputError(place, sorted(fields), f"{error}: this is not a dead letter") from None


def replay(producer: LogProducer, letter: Record) -> Acknowledgement:
    """Append a dead letter to its own topic again, without the headers of its origin (errors as `origin`)."""
    return producer.append(origin(letter).topic, letter.key, letter.value, _own_headers(letter))


def redacted(letter: Record, topic: str) -> dict[str, object] | str:
    """Return the fields of a letter's event that the topic's schema knows and that are not personal.

    For other fields only the type is returned, and for a value that is no JSON object only its size.
    """
    try:
        fields = msgspec.json.decode(letter.value or b"", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"<{len(letter.value or b'')} bytes that are no JSON object>"
    known = {field.encode_name for field in msgspec.structs.fields(NEWEST[topic])} | {"version"}
    return {
        name: value if name in known and name != PERSONAL else f"<{type(value).__name__}, not shown>"
        for name, value in fields.items()
        if name in known or name.isidentifier()
    }


def _own_headers(record: Record) -> tuple[tuple[str, bytes], ...]:
    return tuple(header for header in record.headers if not header[0].startswith(PREFIX))
