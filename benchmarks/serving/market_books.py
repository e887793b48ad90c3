"""Read what the platform holds after the market drill: by plain SQL, by its API, and from the event log."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, text

from benchmarks.serving.market_readers import Clients
from benchmarks.serving.market_records import Books, Charge, PayoutLine, ReportLine
from benchmarks.serving.market_site import Keys
from serving.database.engine import Database
from streaming.log import EventLog
from streaming.topics import CONVERSIONS

CHARGES = (
    "SELECT id, kind, invalid, auction_id, campaign_id, creative_id, placement, price_micros, charged_micros, day, "
    "publisher_id, publisher_micros FROM charges"
)
COUNTED = "SELECT auction_id, creative_id FROM capped_impressions WHERE reserved_until IS NULL"
READ_S = 10.0


async def read_books(clients: Clients, keys: Keys, database_url: str, log: EventLog) -> Books:
    """Read the books: reports and payouts by the API, the rest from database and log."""
    today = datetime.now(UTC).date()
    period = f"first_day={today - timedelta(days=1)}&last_day={today}"
    reports = await clients.read("/v1/reports?group_by=campaign_id", keys.admin)
    payouts = await clients.read(f"/v1/payouts?{period}", keys.admin)
    database = Database(database_url, pool_size=1)
    try:
        with database.read() as connection:
            return Books(
                charges=[_charge(row) for row in connection.execute(text(CHARGES))],
                counted=frozenset((a, ad) for a, ad in connection.execute(text(COUNTED))),
                conversions=_conversions(connection),
                logged=_logged(log),
                reports={
                    line["campaign_id"]: ReportLine(
                        clicks=line["clicks"],
                        revenue=line["revenue_micros"],
                        conversions=line["conversions"],
                        conversion_value=line["conversion_value_micros"],
                    )
                    for line in reports["lines"]
                },
                payouts=[
                    PayoutLine(
                        publisher=line["publisher_id"],
                        placement=line["placement"],
                        charged=line["charged_micros"],
                        publisher_micros=line["publisher_micros"],
                        platform_micros=line["platform_micros"],
                    )
                    for line in payouts["lines"]
                ],
            )
    finally:
        database.close()


def _charge(row: Row[Any]) -> Charge:
    names = Charge.__struct_fields__
    return Charge(**dict(zip(names, row, strict=True)))


def _conversions(connection: Connection) -> list[tuple[str, int]]:
    query = "SELECT click_id, value_micros FROM conversions"
    return [(click, int(value)) for click, value in connection.execute(text(query))]


def _logged(log: EventLog) -> frozenset[str]:
    """Return the clicks of all conversions in the event log."""
    found: set[str] = set()
    with log.consumer("", [CONVERSIONS]) as consumer:
        ends, began = consumer.ends(), time.monotonic()
        while any(consumer.position(place) < end for place, end in ends.items()):
            for record in consumer.poll(1.0):
                found.add(str(msgspec.json.decode(record.value or b"{}")["click_id"]))
            if time.monotonic() - began > READ_S:
                break
    return frozenset(found)
