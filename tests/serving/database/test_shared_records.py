"""Records that one router writes and another reads, on both databases."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from serving.answering.auction_records import AnswerOutcome, AuctionLog, AuctionRecord, OwnedRecord, new_auction_id
from serving.answering.shared_records import SharedRecords
from serving.database.engine import Database

HOUR = timedelta(hours=1)


def record(auction_id: str) -> AuctionRecord:
    fields: dict[str, Any] = {
        field.name: (getattr(field.type, "__origin__", None) or field.type)()
        for field in msgspec.structs.fields(AuctionRecord)
        if field.type is not AnswerOutcome
    }
    return AuctionRecord(**fields | {"auction_id": auction_id, "outcome": AnswerOutcome.ANSWERED})


def test_another_router_reads_a_record_without_the_lists_of_all_creatives(database: Database) -> None:
    shared, elsewhere = SharedRecords(database, HOUR), SharedRecords(database, HOUR)
    log, made = AuctionLog(3, shared.add), record(new_auction_id())
    log.add(OwnedRecord(made, "me", None))
    shared.write()
    shared.write()  # nothing waits any more
    found = asyncio.run(elsewhere.find(made.auction_id))
    assert found == OwnedRecord(made, "me", None, elsewhere=True)
    assert found.full().exclusions is None
    assert found.full().eligible_creatives is None
    assert asyncio.run(elsewhere.find("00000000-0000-7000-8000-000000000000")) is None
    assert asyncio.run(elsewhere.find("no id")) is None


def test_readers_wait_for_records_on_their_way_without_a_thread_each(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RECENT_S", "WAIT_S"):
        monkeypatch.setattr(f"serving.answering.shared_records.{name}", 60.0)
    shared, made = SharedRecords(database, HOUR), record(new_auction_id())
    AuctionLog(9, shared.add).add(OwnedRecord(made, "me", None))

    async def run() -> OwnedRecord | None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        waiting = [asyncio.create_task(shared.find(new_auction_id())) for _ in range(5)]
        wanted = asyncio.create_task(shared.find(made.auction_id))
        await asyncio.sleep(0)  # each one's first read is queued before the batch
        await asyncio.to_thread(shared.write)
        found = await wanted
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        return found

    assert asyncio.run(asyncio.wait_for(run(), 30)) == OwnedRecord(made, "me", None, elsewhere=True)


def test_the_newest_are_listed_by_owner(database: Database) -> None:
    shared, ids = SharedRecords(database, HOUR), sorted(new_auction_id() for _ in range(4))
    for number, auction_id in enumerate(ids):
        AuctionLog(9, shared.add).add(OwnedRecord(record(auction_id), "me" if number % 2 else "", None))
    shared.write()
    assert [one.record.auction_id for one in shared.newest(None, "", 9)] == ids[::-1]
    assert [one.record.auction_id for one in shared.newest("me", "", 1)] == [ids[3]]
    assert [one.record.auction_id for one in shared.newest("me", ids[3], 9)] == [ids[1]]


def test_expired_records_are_not_read_before_they_are_swept(database: Database) -> None:
    auction_id = new_auction_id()
    for kept, expected in ((timedelta(0), []), (HOUR, [auction_id])):
        shared = SharedRecords(database, kept)
        AuctionLog(9, shared.add).add(OwnedRecord(record(auction_id), "", None))
        shared.write()
        assert [one.record.auction_id for one in shared.newest(None, "", 9)] == expected
        found = asyncio.run(shared.find(auction_id))
        assert [found.record.auction_id] == expected if found else not expected


def test_expired_records_are_swept(database: Database) -> None:
    shared, auction_id = SharedRecords(database, HOUR), new_auction_id()
    AuctionLog(9, shared.add).add(OwnedRecord(record(auction_id), "", None))
    shared.write()
    shared.sweep(datetime.now(UTC))
    assert shared.newest(None, "", 9)
    shared.sweep(datetime.now(UTC) + 2 * HOUR)
    assert shared.newest(None, "", 9) == []


def test_what_the_database_did_not_take_waits_for_the_next_batch(database: Database) -> None:
    shared, ids = SharedRecords(database, HOUR), [new_auction_id() for _ in range(2)]
    AuctionLog(9, shared.add).add(OwnedRecord(record(ids[0]), "", None))
    rename = "ALTER TABLE {} RENAME TO {}"
    database.transact(lambda connection: connection.execute(text(rename.format("auction_records", "away"))))
    with pytest.raises(SQLAlchemyError):
        shared.write()
    database.transact(lambda connection: connection.execute(text(rename.format("away", "auction_records"))))
    AuctionLog(9, shared.add).add(OwnedRecord(record(ids[1]), "", None))
    shared.write()
    assert {one.record.auction_id for one in shared.newest(None, "", 9)} == set(ids)


def test_the_newest_wait_where_a_database_is_away_for_long(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.answering.shared_records.WAITING", 2)
    shared, ids = SharedRecords(database, HOUR), sorted(new_auction_id() for _ in range(4))
    log = AuctionLog(9, shared.add)
    for auction_id in ids[:3]:
        log.add(OwnedRecord(record(auction_id), "", None))

    def fail(*_: object, **__: object) -> None:
        log.add(OwnedRecord(record(ids[3]), "", None))  # while the batch is being written
        raise OperationalError("", None, Exception())

    with monkeypatch.context() as patch:
        patch.setattr(database, "transact", fail)
        with pytest.raises(SQLAlchemyError):
            shared.write()
    shared.write()
    assert [one.record.auction_id for one in shared.newest(None, "", 9)] == [ids[3], ids[2]]
