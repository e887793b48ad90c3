"""Marks on rows that let a reader fetch what changed since it last looked, and miss nothing.

Transactions do not commit in the order in which they took a number, so "all above the highest number seen" would lose
the late ones. On PostgreSQL the mark is the transaction's id and the cursor the oldest transaction still running; on
SQLite writers queue, and a clock counts them. A reader may see a change twice, never not at all.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, Text, cast, func, select, update

from serving.database.schema import change_clock


def mark(connection: Connection) -> int:
    """The mark of this transaction, for the rows that it writes."""
    if connection.dialect.name == "sqlite":
        ticked = update(change_clock).values(tick=change_clock.c.tick + 1).returning(change_clock.c.tick)
        return int(connection.execute(ticked).scalar_one())
    own = cast(cast(func.pg_current_xact_id(), Text), BigInteger)
    return int(connection.execute(select(own)).scalar_one())


def horizon(connection: Connection) -> int:
    """The cursor for the next look: read it before the rows. Rows marked with it or later may still change."""
    if connection.dialect.name == "sqlite":
        return int(connection.execute(select(change_clock.c.tick + 1)).scalar_one())
    oldest = cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)
    return int(connection.execute(select(oldest)).scalar_one())
