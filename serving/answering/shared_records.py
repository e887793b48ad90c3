"""The records of all routers of one database: written by each in batches, read where another router wrote the answer.

A record is there about half a second after its answer, for as long as the setting says. Only the router that wrote an
answer has the lists of all eligible and excluded creatives, in its memory: they would be megabytes an answer.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import SQLAlchemyError

from serving.answering.auction_records import OwnedRecord, created_ms, decode_record
from serving.database.engine import Database
from serving.database.schema import auction_records

WRITE_S = 0.5
"""Seconds between two batches."""
WAITING = 10_000
"""Records that wait for a database that cannot be written; older ones are dropped."""
RECENT_S = 5.0
"""A record this young may be on its way: who asks for it waits."""
LOOK_AGAIN_S = 0.25
WAIT_S = 2.0


class SharedRecords:
    """The records of one database, kept for `kept`. `add` belongs to one thread, all else may be called on any."""

    def __init__(self, database: Database, kept: timedelta) -> None:
        self._database = database
        self._kept = kept
        self._waiting: deque[tuple[str, str, bytes]] = deque(maxlen=WAITING)

    def add(self, auction_id: str, owner: str, body: bytes) -> None:
        """Queue an encoded record for the next batch."""
        self._waiting.append((auction_id, owner, body))

    def write(self) -> None:
        """Write what is queued.

        Raises:
            SQLAlchemyError: if the database does not take it; it waits for the next call.
        """
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not batch:
            return
        now = datetime.now(UTC)
        rows = [{"id": id_, "owner": owner, "body": body, "recorded_at": now} for id_, owner, body in batch]
        statement = self._database.insert(auction_records).on_conflict_do_nothing()
        try:
            self._database.transact(lambda connection: connection.execute(statement, rows), idempotent=True)
        except SQLAlchemyError:
            self._waiting.extendleft(reversed(batch))
            raise

    def find(self, auction_id: str) -> OwnedRecord | None:
        """Return a record, after a wait for one that may be on its way; None where it is unknown or expired."""
        end = time.monotonic() + WAIT_S
        query = select(auction_records.c.owner, auction_records.c.body).where(auction_records.c.id == auction_id)
        while True:
            with self._database.read() as connection:
                found = connection.execute(query).first()
            if found is not None:
                return OwnedRecord(decode_record(found.body), found.owner, None, elsewhere=True)
            created = created_ms(auction_id)
            age_s = float("inf") if created is None else abs(time.time() - created / 1_000)
            if age_s > RECENT_S or time.monotonic() >= end:
                return None
            time.sleep(LOOK_AGAIN_S)

    def newest(self, owner: str | None, before: str, count: int) -> list[OwnedRecord]:
        """Return records as `AuctionLog.newest` does."""
        table = auction_records
        query = select(table.c.owner, table.c.body).order_by(table.c.id.desc()).limit(count)
        if owner is not None:
            query = query.where(table.c.owner == owner)
        if before:
            query = query.where(table.c.id < before)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [OwnedRecord(decode_record(row.body), row.owner, None, elsewhere=True) for row in rows]

    def sweep(self, now: datetime) -> None:
        """Delete the expired records."""
        expired = delete(auction_records).where(auction_records.c.recorded_at <= now - self._kept)

        def work(connection: Connection) -> None:
            connection.execute(expired)

        self._database.transact(work, idempotent=True)
