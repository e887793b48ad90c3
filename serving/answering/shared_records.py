"""The records of all routers of one database: written by each in batches, read where another router wrote the answer.

A record is there about half a second after its answer, for as long as the setting says. Only the router that wrote an
answer has the lists of all eligible and excluded creatives, in its memory: they would be megabytes an answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, Row, Select, delete, select
from sqlalchemy.exc import SQLAlchemyError

from serving.answering.auction_records import OwnedRecord, created_ms, decode_record
from serving.database.engine import Database
from serving.database.schema import auction_records

WRITE_S = 0.5
"""Seconds between two batches."""
WAITING = 10_000
"""Records that wait for a database that cannot be written; older ones are dropped."""
RECENT_S = 5.0
"""A record this young may be on its way: its reader waits."""
POLL_S = 0.25
WAIT_S = 2.0


class SharedRecords:
    """The records of one database, kept for `kept`. `add` and `find` belong to the event loop."""

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
            room = WAITING - len(self._waiting)  # a full deque would drop its newest records for older ones
            self._waiting.extendleft(reversed(batch[max(0, len(batch) - room) :]))
            raise

    async def find(self, auction_id: str) -> OwnedRecord | None:
        """Return a record, after a wait for one that may be on its way; None where it is unknown or expired.

        No thread waits meanwhile: those of the router's pool are few.
        """
        end = time.monotonic() + WAIT_S
        while True:
            found = await asyncio.to_thread(self._read, auction_id)
            if found is not None:
                return found
            created = created_ms(auction_id)
            age_s = float("inf") if created is None else abs(time.time() - created / 1_000)
            if age_s > RECENT_S or time.monotonic() >= end:
                return None
            await asyncio.sleep(POLL_S)

    def newest(self, owner: str | None, before: str, count: int) -> list[OwnedRecord]:
        """Return records as `AuctionLog.newest` does."""
        table = auction_records
        query = self._unexpired().order_by(table.c.id.desc()).limit(count)
        if owner is not None:
            query = query.where(table.c.owner == owner)
        if before:
            query = query.where(table.c.id < before)
        with self._database.read() as connection:
            return [_owned(row) for row in connection.execute(query)]

    def sweep(self, now: datetime) -> None:
        """Delete the expired records."""
        expired = delete(auction_records).where(auction_records.c.recorded_at <= now - self._kept)

        def work(connection: Connection) -> None:
            connection.execute(expired)

        self._database.transact(work, idempotent=True)

    def _read(self, auction_id: str) -> OwnedRecord | None:
        with self._database.read() as connection:
            row = connection.execute(self._unexpired().where(auction_records.c.id == auction_id)).first()
        return None if row is None else _owned(row)

    def _unexpired(self) -> Select[tuple[str, bytes]]:
        table = auction_records
        return select(table.c.owner, table.c.body).where(table.c.recorded_at > datetime.now(UTC) - self._kept)


def _owned(row: Row[tuple[str, bytes]]) -> OwnedRecord:
    return OwnedRecord(decode_record(row.body), row.owner, None, elsewhere=True)
