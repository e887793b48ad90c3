"""Conversions: stored once by id and type, of valid clicks within seven days, counted in the line of their click."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from mechanism.errors import InputError
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.conversions import BookedConversions, ReportedConversion, book_conversions
from serving.reports.reports import Dimension, Query, report
from tests.serving.database.samples import NOW, campaign, click

LATER = NOW + timedelta(days=1)


@pytest.fixture
def clicked(database: Database) -> Database:
    """Clicks k1 and k2 of advertiser a1, of which k2 is also a prefetch; k3 of a2; k4 is a prefetch alone."""
    for number, advertiser in ((1, "a1"), (2, "a2")):
        CampaignStore(database).create(campaign(number, advertiser_id=advertiser), NOW)
    other = {"campaign_id": "c2", "creative_id": "c2-1"}
    events = [click(1), click(2, invalid="prefetch"), click(2), click(3, **other), click(4, invalid="prefetch")]
    Ledger(database).book(events)
    return database


def bought(number: int, **options: Any) -> ReportedConversion:
    usual = {"click_id": f"k{number}", "type": "purchase", "occurred_at": NOW + timedelta(hours=1)}
    return ReportedConversion(**usual | options)


def book(database: Database, *reported: ReportedConversion, advertiser: str = "a1") -> BookedConversions:
    return book_conversions(database, advertiser, reported, LATER)


def test_a_conversion_counts_once_by_id_and_type(clicked: Database) -> None:
    order = bought(1, id="order-7", value_micros=30_000_000, currency="EUR")
    first = book(clicked, order, order, bought(1, type="sign_up"))
    assert (len(first.new), first.repeated, first.faults) == (2, 1, {})
    again = book(clicked, order, bought(2, id="order-7"), bought(2, id="order-8"))
    assert (len(again.new), again.repeated) == (1, 2)
    (line,) = report(clicked, Query(advertiser_id="a1"))
    assert (line.conversions, line.conversion_value_micros, line.clicks) == (3, 30_000_000, 2)


def test_bad_conversions_name_themselves_and_keep_no_other_out(clicked: Database) -> None:
    week = timedelta(days=7)
    faults = book(
        clicked,
        bought(1, occurred_at=NOW - timedelta(minutes=6)),
        bought(2),
        bought(3),
        bought(4),
        bought(9),
        bought(1, value_micros=5, currency="USD"),
        bought(1, value_micros=5),
        bought(1, occurred_at=LATER + timedelta(minutes=6)),
    ).faults
    places = {index: fault.place for index, fault in faults.items()}
    unknown = dict.fromkeys((2, 3, 4), "click_id")
    assert places == {0: "occurred_at", 5: "currency", 6: "currency", 7: "occurred_at"} | unknown
    late = book_conversions(clicked, "a1", [bought(1, occurred_at=NOW + week + timedelta(seconds=1))], NOW + 2 * week)
    assert late.faults[0].place == "occurred_at"
    assert book_conversions(clicked, "a1", [bought(1, occurred_at=NOW + week)], NOW + 2 * week).faults == {}


def test_an_administrator_reports_for_every_advertiser(clicked: Database) -> None:
    assert len(book(clicked, bought(1), bought(3), advertiser="").new) == 2
    lines = report(clicked, Query(group_by=(Dimension.CAMPAIGN,)))
    assert [line.conversions for line in lines] == [1, 1]


def test_the_event_names_the_click_and_no_order(clicked: Database) -> None:
    (event,) = book(clicked, bought(1, id="order of Jane Roe")).new
    assert (event.auction_id, event.ad_id, event.campaign_id) == ("auction-1", "c1-1", "c1")
    assert (event.clicked_at, event.placement, event.currency) == (NOW, "chat", "EUR")
    assert "Jane" not in repr(event)


def test_conversions_that_arrive_twice_at_once_count_once(clicked: Database) -> None:
    batch = [bought(1, id=str(number)) for number in range(50)]
    with ThreadPoolExecutor(4) as pool:
        booked = list(pool.map(lambda part: book(clicked, *part), (batch, batch[::-1], batch, batch[::-1])))
    assert sum(len(one.new) for one in booked) == 50
    assert sum(one.repeated for one in booked) == 150
    (line,) = report(clicked, Query(advertiser_id="a1"))
    assert line.conversions == 50


def test_a_batch_whose_commit_was_in_doubt_keeps_its_events(
    clicked: Database, in_doubt: Callable[[Database], None]
) -> None:
    in_doubt(clicked)
    booked = book(clicked, bought(1), bought(2))
    assert ({event.click_id for event in booked.new}, booked.repeated) == ({"k1", "k2"}, 0)
    (line,) = report(clicked, Query(advertiser_id="a1"))
    assert line.conversions == 2


def test_a_batch_is_bounded(clicked: Database) -> None:
    with pytest.raises(InputError, match="1000 at most"):
        book(clicked, *[bought(1)] * 1_001)
