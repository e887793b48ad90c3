"""The counters behind reports: one row for each campaign, creative, placement, day and model version."""

from __future__ import annotations

from collections import Counter, defaultdict

import msgspec
from sqlalchemy import Connection

from mechanism.types import Micros
from serving.database.engine import Database
from serving.database.schema import auction_overlaps, report_counters
from serving.ledger.events import Terms
from serving.ledger.hourly import Hours

KEY = ("campaign_id", "creative_id", "placement", "day", "model_version")


class Counts(msgspec.Struct):
    """What is counted: auctions, impressions, valid clicks, those that cost something, and revenue.

    An auction counts for each of its creatives (`creative_auctions`), and, so that sums over several creatives count it
    once, for the first of each campaign, of each advertiser on each day, and of all on each day; the last two within
    their currency.
    """

    creative_auctions: int = 0
    campaign_auctions: int = 0
    advertiser_auctions: int = 0
    all_auctions: int = 0
    impressions: int = 0
    clicks: int = 0
    charged_clicks: int = 0
    revenue_micros: Micros = 0


COUNTED = Counts.__struct_fields__


def counter_key(campaign_id: str, creative_id: str, placement: str, day: str, model_version: str) -> tuple[str, ...]:
    """The values of KEY, in its order."""
    return (campaign_id, creative_id, placement, day, model_version)


class Tally:
    """Gathers what a batch adds to the counters, and adds it at the end, each table in the order of its keys: writers
    that meet there wait and never deadlock, as long as they take these locks last. `overlaps` has the keys of
    `auction_overlaps`; `terms` are those of every campaign that is counted."""

    def __init__(self) -> None:
        self.counts = defaultdict[tuple[str, ...], Counts](Counts)
        self.overlaps = Counter[tuple[str, ...]]()
        self.hours = Hours()
        self.terms: dict[str, Terms] = {}

    def add(self, database: Database, connection: Connection) -> None:
        """Adds everything to the tables."""
        rows = [
            dict(zip(KEY, key, strict=True))
            | {"advertiser_id": self.terms[key[0]].advertiser_id, "currency": self.terms[key[0]].currency}
            | msgspec.structs.asdict(counted)
            for key, counted in sorted(self.counts.items(), key=lambda item: item[0])
        ]
        if rows:
            into = database.insert(report_counters)
            added = {name: report_counters.c[name] + into.excluded[name] for name in COUNTED}
            connection.execute(into.on_conflict_do_update(index_elements=list(KEY), set_=added), rows)
        names = [column.name for column in auction_overlaps.primary_key]
        overlaps = [dict(zip(names, key, strict=True)) | {"auctions": n} for key, n in sorted(self.overlaps.items())]
        if overlaps:
            into = database.insert(auction_overlaps)
            more = {"auctions": auction_overlaps.c.auctions + into.excluded.auctions}
            connection.execute(into.on_conflict_do_update(index_elements=names, set_=more), overlaps)
        self.hours.add(database, connection)
