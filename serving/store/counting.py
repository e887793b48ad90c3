"""The counters behind reports: one row for each campaign, creative, placement, day and model version."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection

from mechanism.types import Micros
from serving.store.engine import Database
from serving.store.events import Terms
from serving.store.schema import report_counters

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


def add_counts(
    database: Database, connection: Connection, counts: Mapping[tuple[str, ...], Counts], terms: Mapping[str, Terms]
) -> None:
    """Adds to the counters, in the order of their keys, so that writers meeting here wait and never deadlock."""
    rows = [
        dict(zip(KEY, key, strict=True))
        | {"advertiser_id": terms[key[0]].advertiser_id, "currency": terms[key[0]].currency}
        | msgspec.structs.asdict(counted)
        for key, counted in sorted(counts.items(), key=lambda item: item[0])
    ]
    if rows:
        into = database.insert(report_counters)
        added = {name: report_counters.c[name] + into.excluded[name] for name in COUNTED}
        connection.execute(into.on_conflict_do_update(index_elements=list(KEY), set_=added), rows)
