"""Counts auctions and impressions for reports; each auction once, however often it is reported. `serving.ledger.ledger`
calls it within its transactions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

import msgspec
from sqlalchemy import Connection, insert, select

from serving.campaigns.dayparts import day_of
from serving.database.columns import checked_moment, checked_text
from serving.database.engine import Database
from serving.database.schema import auctions
from serving.ledger.counting import Tally, counter_key
from serving.ledger.events import BadAuctions, BadEvents, Terms, check_batch_size, terms_of


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


def model_versions(database: Database, ids: Collection[str]) -> dict[str, str]:
    """The model version of each auction that is on record: a click's report line needs it, and its token has it not."""
    query = select(auctions.c.id, auctions.c.model_version).where(auctions.c.id.in_(ids))
    with database.read() as connection:
        return {auction_id: version for auction_id, version in connection.execute(query)}


def checked_terms(connection: Connection, batch: Sequence[Auction]) -> dict[str, Terms]:
    """Terms of the campaigns that took part. Raises BadAuctions where one is unknown, InputError for too many."""
    check_batch_size(max(len(batch), sum(len(auction.entries) for auction in batch)))
    used = [
        (index, auction.id, campaign_id, "")
        for index, auction in enumerate(batch)
        for campaign_id in sorted({entry.campaign_id for entry in auction.entries})
    ]
    try:
        return terms_of(connection, {campaign_id for _, _, campaign_id, _ in used}, used)
    except BadEvents as error:
        raise BadAuctions(error.rejected) from None


def count_auctions(connection: Connection, batch: Sequence[Auction], terms: Mapping[str, Terms], tally: Tally) -> int:
    """Writes the auctions down that are not on record yet, adds them to the tally, and says how many they were."""
    by_id = {auction.id: auction for auction in reversed(batch)}
    known = set(connection.execute(select(auctions.c.id).where(auctions.c.id.in_(by_id))).scalars())
    new = [by_id[auction_id] for auction_id in sorted(by_id.keys() - known)]
    for auction in new:
        _count(auction, terms, tally)
        owners = (terms[entry.campaign_id] for entry in auction.entries if entry.shown)
        tally.hours.answer(auction.occurred_at, auction.model_version, owners)
    if new:
        kept = ("id", "occurred_at", "placement", "model_version")
        connection.execute(insert(auctions), [{name: getattr(auction, name) for name in kept} for auction in new])
    return len(new)


def _count(auction: Auction, terms: Mapping[str, Terms], tally: Tally) -> None:
    """Adds one auction, as `Counts` says."""
    campaigns: set[str] = set()
    days = defaultdict[tuple[str, str], set[str]](set)
    for entry in auction.entries:
        own = terms[entry.campaign_id]
        day = day_of(auction.occurred_at, own.time_zone)
        key = counter_key(entry.campaign_id, entry.creative_id, auction.placement, day, auction.model_version)
        of_advertiser, of_all = days[own.advertiser_id, own.currency], days["", own.currency]
        counted = tally.counts[key]
        tally.terms[entry.campaign_id] = own
        counted.creative_auctions += 1
        counted.campaign_auctions += entry.campaign_id not in campaigns
        counted.advertiser_auctions += day not in of_advertiser
        counted.all_auctions += day not in of_all
        counted.impressions += entry.shown
        campaigns.add(entry.campaign_id)
        of_advertiser.add(day)
        of_all.add(day)
    for (advertiser, currency), found in days.items():
        for earlier, day in pairwise(sorted(found)):
            tally.overlaps[advertiser, currency, auction.placement, day, earlier, auction.model_version] += 1
