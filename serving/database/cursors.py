"""Cursors over rows: the next page of a long list, and the changes since an earlier read.

A page's cursor is the sort key of the last item on it, so that no item is skipped or repeated while others are added.
It is signed: no caller can search for rows by guessing keys.

A change cursor is a number. Transactions do not commit in the order in which they took their numbers, so "all rows
above the highest number read" would lose the late ones. On PostgreSQL a row's mark is the id of its transaction and the
cursor is the oldest transaction still running; on SQLite writers queue, and a clock counts them. A reader may get a
change twice; it never misses one.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec
from sqlalchemy import BigInteger, Connection, Text, cast, func, select, update

from mechanism.errors import InputError
from serving.database.schema import change_clock
from serving.database.signatures import Signer

T = TypeVar("T")
MOST_ITEMS = 1_000


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some items of a list, and the cursor of the next page; the last page has an empty cursor."""

    items: tuple[T, ...]
    cursor: str = ""


def write_cursor(signer: Signer, listed: str, key: object) -> str:
    """Encode a sort key of the list `listed` as signed text that is safe in a URL."""
    return signer.sign(f"cursor {listed}", msgspec.json.encode(key))


def read_cursor(signer: Signer, listed: str, cursor: str, kind: type[T]) -> T:
    """Decode the sort key of a cursor.

    Raises:
        InputError: if `write_cursor` did not make this cursor for this list.
    """
    data = signer.verify(f"cursor {listed}", cursor)
    if data is None:
        raise InputError("cursor", cursor, "give the cursor of the page before, or none for the first page")
    return msgspec.json.decode(data, type=kind)


def checked_limit(limit: int) -> int:
    """Return the size of a page if it is allowed.

    Raises:
        InputError: if the limit is not from 1 to 1000.
    """
    if not 1 <= limit <= MOST_ITEMS:
        raise InputError("limit", limit, f"give a whole number from 1 to {MOST_ITEMS}")
    return limit


def change_mark(connection: Connection) -> int:
    """Return the mark of this transaction, for the column `changed_in` of the rows that it writes."""
    if connection.dialect.name == "sqlite":
        ticked = update(change_clock).values(tick=change_clock.c.tick + 1).returning(change_clock.c.tick)
        return int(connection.execute(ticked).scalar_one())
    own = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
    return int(connection.execute(select(own)).scalar_one())


def change_cursor(connection: Connection) -> int:
    """Return the cursor for the next read of changes; call it before reading the rows.

    Rows whose mark is the cursor or later may still change.
    """
    if connection.dialect.name == "sqlite":
        return int(connection.execute(select(change_clock.c.tick + 1)).scalar_one())
    oldest = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
    return int(connection.execute(select(oldest)).scalar_one())
