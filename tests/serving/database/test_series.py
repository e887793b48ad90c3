"""Curves over time: every point is the sum of its hours, and agrees with the reports."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mechanism.errors import InputError
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Pricing
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import Auction, AuctionEntry
from serving.reports.reports import Query, report
from serving.reports.series import Step, Window, answers, points
from tests.serving.database.samples import NOW, campaign, click


def auction(number: int, *shown: str, **options: object) -> Auction:
    """Auction <number> of creatives c1-1 and c2-1 at noon, decided by model m1."""
    entries = tuple(AuctionEntry(campaign_id=c[:2], creative_id=c, shown=c in shown) for c in ("c1-1", "c2-1"))
    usual = {"id": f"auction-{number}", "occurred_at": NOW, "placement": "chat", "model_version": "m1"}
    return Auction(**usual | {"entries": entries} | options)  # type: ignore[arg-type]


@pytest.fixture
def traffic(database: Database) -> Database:
    """Two advertisers, two currencies, two model versions, over two days."""
    store = CampaignStore(database)
    store.create(campaign(1), NOW)
    store.create(campaign(2, advertiser_id="a2", currency="USD", time_zone="Asia/Tokyo"), NOW)
    late = NOW + timedelta(minutes=59, seconds=59)
    batch = [auction(1, "c1-1"), auction(2, "c1-1", "c2-1", occurred_at=late), auction(3)]
    batch += [auction(4, "c2-1", model_version="m2", occurred_at=NOW - timedelta(hours=13))]
    Ledger(database).book(auctions=batch)
    Ledger(database).book(auctions=batch)  # reported twice, counted once
    usd = {"campaign_id": "c2", "creative_id": "c2-1", "currency": "USD"}
    events = [
        click(1),
        click(2, occurred_at=NOW + timedelta(hours=1)),
        click(3, invalid="prefetch"),
        click(4, **usd, model_version="m2", price_micros=0, occurred_at=NOW - timedelta(hours=12)),
        click(5, **usd, kind=Pricing.IMPRESSION, price_micros=7),
    ]
    Ledger(database).book(events)
    Ledger(database).book(events)
    return database


def window(step: Step = Step.HOUR, count: int = 24, **options: object) -> Window:
    return Window(step=step, count=count, **{"now": NOW + timedelta(hours=2, minutes=5)} | options)  # type: ignore[arg-type]


def test_points_by_the_hour(traffic: Database) -> None:
    found = [
        (p.start - NOW, p.model_version, p.currency, p.impressions, p.clicks, p.charged_clicks, p.revenue_micros)
        for p in points(traffic, window())
    ]
    assert found == [
        (timedelta(hours=-13), "m2", "USD", 1, 0, 0, 0),
        (timedelta(hours=-12), "m2", "USD", 0, 1, 0, 0),
        (timedelta(0), "m1", "EUR", 2, 1, 1, 250_000),
        (timedelta(0), "m1", "USD", 1, 0, 0, 7),
        (timedelta(hours=1), "m1", "EUR", 0, 1, 1, 250_000),
    ]
    assert [(a.start - NOW, a.model_version, a.answers, a.filled, a.shown) for a in answers(traffic, window())] == [
        (timedelta(hours=-13), "m2", 1, 1, 1),
        (timedelta(0), "m1", 3, 2, 3),
    ]


def test_points_by_the_day_agree_with_the_report(traffic: Database) -> None:
    found = points(traffic, window(Step.DAY, 3))
    for line in report(traffic, Query()):
        same = [point for point in found if point.currency == line.currency]
        for name in ("impressions", "clicks", "charged_clicks", "revenue_micros"):
            assert sum(getattr(point, name) for point in same) == getattr(line, name)
    midnight = datetime(2026, 11, 24, tzinfo=UTC)
    assert {point.start for point in found} == {midnight, midnight - timedelta(days=1)}
    assert window(Step.DAY, 3).starts == tuple(midnight - timedelta(days=back) for back in (2, 1, 0))


def test_a_window_is_limited_to_its_steps_an_advertiser_and_a_model(traffic: Database) -> None:
    assert [p.start - NOW for p in points(traffic, window(count=3, advertiser_id="a1"))] == [
        timedelta(0),
        timedelta(hours=1),
    ]
    assert {p.currency for p in points(traffic, window(advertiser_id="a2"))} == {"USD"}
    assert {p.model_version for p in points(traffic, window(model_version="m2"))} == {"m2"}
    assert [a.answers for a in answers(traffic, window(model_version="m2"))] == [1]
    assert points(traffic, window(count=1)) == answers(traffic, window(count=1)) == []
    assert points(traffic, window(advertiser_id="a3")) == []


@pytest.mark.parametrize("bad", [{"count": 0}, {"count": 745}, {"now": NOW.replace(tzinfo=None)}])
def test_a_bad_window_is_bad_input(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        window(**bad)  # type: ignore[arg-type]
