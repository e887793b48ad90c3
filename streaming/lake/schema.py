"""The tables of the lake: one for each kind of event, with a column for each of its fields and some derived columns.

day             UTC day of the answer (clicks and conversions: their own), by which the tables are partitioned
occurred_us     `occurred_at` in microseconds since 1970, since all query engines subtract integers in the same way
shown_ads       ids of the shown ads (interactions only)
arrived_at      when the event was appended to the log
log, log_partition, log_offset   the log's identity and the event's place in it, which together identify a row
extra           fields that this program does not know, as a JSON object by JSON pointer; unknown fields of the
reader's part are in `reader.extra`, and are erased with it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa

from streaming.codec import NEWEST
from streaming.events import AnyEvent, Interaction, Judgement
from streaming.lake.arrow import columns, plainers
from streaming.topics import CLICKS, CONVERSIONS, INTERACTIONS, JUDGEMENTS
from streaming.unknown_fields import PERSONAL, unknown_fields

TABLES = (INTERACTIONS, CLICKS, JUDGEMENTS)
"""What training sets are read from."""
STORED = (*TABLES, CONVERSIONS)
PARTITION_BY = "day"
STATISTICS = ("auction_id", "occurred_us", "log_partition", "log_offset")
"""Columns with minimum and maximum per file, by which queries skip files; none of them is personal."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encode = msgspec.json.Encoder().encode
_DERIVED = {
    "day": pa.date32(),
    "occurred_us": pa.int64(),
    "arrived_at": pa.timestamp("us", tz="UTC"),
    "log": pa.string(),
    "log_partition": pa.int32(),
    "log_offset": pa.int64(),
    "extra": pa.string(),
}


@dataclass(frozen=True, slots=True)
class Stored:
    """An event to store in its table. `value` is its record's value; None if there is no record."""

    event: AnyEvent
    value: bytes | None
    arrived_at: datetime
    log: str
    partition: int
    offset: int


@cache
def arrow_schema(table: str) -> Any:
    """Return the Arrow schema of a table."""
    found = columns(NEWEST[table]) | _DERIVED
    if table == INTERACTIONS:
        found["reader"] = pa.struct([*found["reader"], pa.field("extra", pa.string())])
        found["shown_ads"] = pa.list_(pa.string())
    return pa.schema(list(found.items()))


def to_table(table: str, rows: Sequence[Stored]) -> Any:
    """Return the rows as an Arrow table."""
    found: dict[str, list[Any]] = {
        name: [plain(getattr(row.event, name)) for row in rows] for name, plain in plainers(NEWEST[table]).items()
    }
    derived: dict[str, Callable[[Stored], Any]] = {
        "day": lambda row: day_of(row.event),
        "occurred_us": lambda row: to_us(row.event.occurred_at),
        "arrived_at": lambda row: row.arrived_at,
        "log": lambda row: row.log,
        "log_partition": lambda row: row.partition,
        "log_offset": lambda row: row.offset,
    }
    found |= {name: [value(row) for row in rows] for name, value in derived.items()}
    found["extra"] = [None] * len(rows)
    if table == INTERACTIONS:
        found["shown_ads"] = [[ad["ad_id"] for ad in shown] for shown in found["shown"]]
    for i, row in enumerate(rows):
        _keep_unknown(table, row, i, found)
    return pa.table([pa.array(found[column.name], column.type) for column in arrow_schema(table)], arrow_schema(table))


def day_of(event: AnyEvent) -> date:
    """Return the day under which an event is stored; a judgement is stored under the day of its answer."""
    return (event.answered_at if isinstance(event, Judgement) else event.occurred_at).date()


def to_us(moment: datetime) -> int:
    """Return a moment in microseconds since 1970."""
    return (moment - EPOCH) // _MICROSECOND


def without_reader(row: Stored) -> Stored:
    """Return an interaction's row without the reader's part, its unknown fields included."""
    assert isinstance(row.event, Interaction)
    event = msgspec.structs.replace(row.event, reader=None)
    value = None if row.value is None else _without(row.value, "reader")
    return replace(row, event=event, value=value)


def _keep_unknown(table: str, row: Stored, i: int, found: dict[str, list[Any]]) -> None:
    """Fill the columns of unknown fields.

    An event without unknown fields usually encodes to the bytes that it was read from; only others are searched.
    """
    if row.value is None or _encode(row.event) == row.value:
        return
    unknown = unknown_fields(table, row.value)
    personal = {at: value for at, value in unknown.items() if at.startswith(PERSONAL)}
    other = {at: value for at, value in unknown.items() if at not in personal}
    if other:
        found["extra"][i] = msgspec.json.encode(other).decode()
    if personal:
        found["reader"][i]["extra"] = msgspec.json.encode(personal).decode()


def _without(value: bytes, name: str) -> bytes:
    return msgspec.json.encode({key: part for key, part in msgspec.json.decode(value).items() if key != name})
