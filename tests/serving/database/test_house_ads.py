"""House ads in the ledger: whatever price an event names, they are never charged, and reports mark them."""

from __future__ import annotations

import csv
import io
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Pricing, Priority
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import Auction, AuctionEntry
from serving.reports.reports import Dimension, Query, as_csv, report, totals
from tests.serving.database.samples import NOW, campaign, click

_fresh = count(1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10**12), st.sampled_from(tuple(Pricing)), st.booleans()), min_size=1))
def test_no_event_of_a_house_ad_is_charged(database: Database, events: list[tuple[int, Pricing, bool]]) -> None:
    number = next(_fresh)
    ids = {True: f"c{number + 7_000}", False: f"c{number + 8_000}"}
    store = CampaignStore(database)
    store.create(campaign(number + 7_000, advertiser_id=f"h{number}", priority=Priority.HOUSE), NOW)
    store.create(campaign(number + 8_000, advertiser_id=f"p{number}"), NOW)
    batch = [
        click(
            n, id=f"{number}-{n}", campaign_id=ids[house], creative_id=f"{ids[house]}-1", price_micros=price, kind=kind
        )
        for n, (price, kind, house) in enumerate(events)
    ]
    charged = [result.charged_micros for result in Ledger(database).book(batch)]
    assert charged == [0 if house else price for price, _, house in events]
    assert totals(database, f"h{number}") == []


def test_reports_mark_house_ads(database: Database) -> None:
    store = CampaignStore(database)
    store.create(campaign(1), NOW)
    store.create(campaign(2, priority=Priority.HOUSE), NOW)
    shown = [("c1", "c1-1"), ("c1", "c1-1"), ("c2", "c2-1")]
    auctions = [
        Auction(
            id=f"auction-{n}",
            occurred_at=NOW,
            entries=(AuctionEntry(campaign_id=own, creative_id=ad, shown=True),),
        )
        for n, (own, ad) in enumerate(shown)
    ]
    events = [click(1), click(2, campaign_id="c2", creative_id="c2-1", price_micros=0)]
    Ledger(database).book(events, auctions=auctions)
    (whole,) = report(database, Query())
    assert (whole.impressions, whole.house_impressions, whole.clicks, whole.house_clicks) == (3, 1, 2, 1)
    assert whole.priority is None
    lines = report(database, Query(group_by=(Dimension.CAMPAIGN,)))
    assert [(one.campaign_id, one.priority, one.house_impressions) for one in lines] == [
        ("c1", "standard", 0),
        ("c2", "house", 1),
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv(lines))))
    assert [(row["priority"], row["house_clicks"], row["revenue_micros"]) for row in rows] == [
        ("standard", "0", "250000"),
        ("house", "1", "0"),
    ]
    assert "priority" not in csv.DictReader(io.StringIO(as_csv([whole]))).fieldnames  # type: ignore[operator]


def test_a_priority_is_fixed(database: Database) -> None:
    store = CampaignStore(database)
    stored = store.create(campaign(1, priority=Priority.SPONSORSHIP), NOW)
    assert store.get("c1").priority is Priority.SPONSORSHIP
    with pytest.raises(InputError, match="priority"):
        store.update(campaign(1, version=stored.version), NOW)
