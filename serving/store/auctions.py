"""Counts auctions and impressions for reports; each auction once, however often it is reported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, insert, select

from serving.store.counting import Counts, add_counts, counter_key
from serving.store.days import day_of
from serving.store.engine import Database
from serving.store.events import check_batch_size, terms_of
from serving.store.schema import auctions
from serving.store.values import checked_moment, checked_text


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A creative that took part in an auction, and whether the answer showed it."""

    campaign_id: str
    creative_id: str
    shown: bool = False


class Auction(msgspec.Struct, frozen=True, kw_only=True):
    """One auction, as reports count it."""

    id: str
    occurred_at: datetime
    placement: str = ""
    model_version: str = ""
    entries: tuple[Entry, ...] = ()

    def __post_init__(self) -> None:
        checked_text("id", self.id)
        for name in ("placement", "model_version"):
            checked_text(name, getattr(self, name), empty=True)
        checked_moment("occurred_at", self.occurred_at)


def record_auctions(database: Database, batch: Sequence[Auction]) -> int:
    """Counts the auctions that are not on record yet, in one transaction, and says how many they were.

    Raises BadEvents, and writes nothing, where an auction names an unknown campaign. May be called again with the same
    auctions after any failure.
    """
    check_batch_size(max(len(batch), sum(len(auction.entries) for auction in batch)))
    return database.transact(lambda connection: _record(database, connection, batch), idempotent=True)


def model_versions(database: Database, ids: Collection[str]) -> dict[str, str]:
    """The model version of each auction that is on record: a click's report line needs it, and its token has it not."""
    query = select(auctions.c.id, auctions.c.model_version).where(auctions.c.id.in_(ids))
    with database.read() as connection:
        return {auction_id: version for auction_id, version in connection.execute(query)}


def _record(database: Database, connection: Connection, batch: Sequence[Auction]) -> int:
    by_id = {auction.id: auction for auction in reversed(batch)}
    used = [
        (index, auction.id, campaign_id, "")
        for index, auction in enumerate(batch)
        for campaign_id in sorted({entry.campaign_id for entry in auction.entries})
    ]
    terms = terms_of(connection, {campaign_id for _, _, campaign_id, _ in used}, used)
    known = set(connection.execute(select(auctions.c.id).where(auctions.c.id.in_(by_id))).scalars())
    new = [by_id[auction_id] for auction_id in sorted(by_id.keys() - known)]
    counts = defaultdict[tuple[str, ...], Counts](Counts)
    for auction in new:
        for entry in auction.entries:
            day = day_of(auction.occurred_at, terms[entry.campaign_id].time_zone)
            key = counter_key(entry.campaign_id, entry.creative_id, auction.placement, day, auction.model_version)
            counts[key].auctions += 1
            counts[key].impressions += entry.shown
    if new:
        kept = ("id", "occurred_at", "placement", "model_version")
        connection.execute(insert(auctions), [{name: getattr(auction, name) for name in kept} for auction in new])
        add_counts(database, connection, counts, terms)
    return len(new)
