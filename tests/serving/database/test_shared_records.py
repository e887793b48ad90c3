"""Records that one router writes and another reads, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

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
    found = elsewhere.find(made.auction_id)
    assert found == OwnedRecord(made, "me", None, elsewhere=True)
    assert found.full().exclusions is found.full().eligible_creatives is None
    assert elsewhere.find("00000000-0000-7000-8000-000000000000") is None
    assert elsewhere.find("no id") is None


def test_the_newest_are_listed_by_owner(database: Database) -> None:
    shared, ids = SharedRecords(database, HOUR), sorted(new_auction_id() for _ in range(4))
    for number, auction_id in enumerate(ids):
        AuctionLog(9, shared.add).add(OwnedRecord(record(auction_id), "me" if number % 2 else "", None))
    shared.write()
    assert [one.record.auction_id for one in shared.newest(None, "", 9)] == ids[::-1]
    assert [one.record.auction_id for one in shared.newest("me", "", 1)] == [ids[3]]
    assert [one.record.auction_id for one in shared.newest("me", ids[3], 9)] == [ids[1]]


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
