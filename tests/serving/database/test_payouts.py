"""Publishers are paid their share to the micro: with the platform's part it is what advertisers were charged."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from serving.accounts.publishers import PlacementDirectory, PublisherStore
from serving.bid_scale import BidScale
from serving.campaigns.storage import CampaignStore, NotFound
from serving.campaigns.types import Pricing
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.refunds import Clicks, refund
from serving.reports.payouts import Payout, payouts, payouts_csv
from serving.reports.reports import totals
from tests.serving.database.samples import NOW, campaign, click

_fresh = count(1)


def paid(database: Database, publisher: str = "") -> list[Payout]:
    """Return the payouts of the days around now, when the test's charges are booked."""
    now = datetime.now(UTC)
    days = [(now + timedelta(days=offset)).date().isoformat() for offset in (-1, 1)]
    return payouts(database, *days, publisher)


@pytest.fixture
def store(database: Database) -> PublisherStore:
    CampaignStore(database).create(campaign(1), NOW)
    made = PublisherStore(database)
    made.create("news", 700, NOW)
    made.create("blog", 333, NOW)
    return made


def test_each_placement_pays_its_publisher(store: PublisherStore, database: Database) -> None:
    store.register("news.sidebar", "news", NOW)
    places = ["news", "news.sidebar", "blog", "unknown"]
    Ledger(database).book([click(n, placement=place, price_micros=100_001) for n, place in enumerate(places)])
    found = {
        (line.publisher_id, line.placement): (line.publisher_micros, line.platform_micros) for line in paid(database)
    }
    assert found == {
        ("news", "news"): (70_000, 30_001),
        ("news", "news.sidebar"): (70_000, 30_001),
        ("blog", "blog"): (33_300, 66_701),
        ("", "unknown"): (0, 100_001),
    }
    assert [line.placement for line in paid(database, "blog")] == ["blog"]


def test_a_refund_takes_back_exactly_what_was_shared(store: PublisherStore, database: Database) -> None:
    Ledger(database).book([click(n, placement="blog", price_micros=999, source="s1") for n in range(3)])
    store.set_share("blog", 900)
    Ledger(database).book([click(9, placement="blog", price_micros=1_000)])
    refund(database, Clicks(source="s1"), "bot")
    (line,) = paid(database)
    assert (line.charged_micros, line.refunded_micros) == (3_997, 2_997)
    assert (line.publisher_micros, line.platform_micros) == (900, 100)


def test_a_placement_has_one_publisher(store: PublisherStore) -> None:
    assert store.register("news.top", "news", NOW) == store.register("news.top", "news", NOW)
    with pytest.raises(InputError, match="another publisher"):
        store.register("news.top", "blog", NOW)
    with pytest.raises(InputError, match="another publisher"):
        store.create("news.top", 500, NOW)
    with pytest.raises(InputError, match="create it first"):
        store.register("elsewhere", "nobody", NOW)
    with pytest.raises(InputError, match="a publisher has this id"):
        store.create("news", 500, NOW)
    directory = PlacementDirectory(store)
    directory.load()
    assert [directory.owner(name) for name in ("news", " NEWS.top", "other")] == ["news", "news", ""]


def test_floors_are_kept_by_placement(store: PublisherStore) -> None:
    scale = BidScale()
    stored = store.set_floors("news", {"USD": 2, "EUR": 1}, scale)
    assert store.placements("news") == [stored]
    assert store.register("news", "news", NOW) == stored
    directory = PlacementDirectory(store)
    directory.load()
    assert [directory.floors(name) for name in (" NEWS", "blog", "other")] == [{"EUR": 1, "USD": 2}, {}, {}]
    with pytest.raises(NotFound):
        store.set_floors("news", {"EUR": 1}, scale, "blog")
    assert store.set_floors("news", {}, scale, "news").floors == {}


@pytest.mark.parametrize(("name", "share"), [("News", 1), ("", 1), ("a b", 1), ("x" * 65, 1), ("x", -1), ("x", 1_001)])
def test_wrong_publishers_are_refused(store: PublisherStore, name: str, share: int) -> None:
    with pytest.raises(InputError):
        store.create(name, share, NOW)


@pytest.mark.parametrize(("first", "last"), [("", ""), ("2026-11-24", ""), ("2026-11-24", "2026-11-23"), ("x", "y")])
def test_a_period_needs_two_days(database: Database, first: str, last: str) -> None:
    with pytest.raises(InputError, match="day"):
        payouts(database, first, last)


def test_csv_has_a_row_for_each_line(store: PublisherStore, database: Database) -> None:
    Ledger(database).book([click(1, placement="news"), click(2, placement="=1+1")])
    rows = list(csv.DictReader(io.StringIO(payouts_csv(paid(database)))))
    assert [(row["publisher_id"], row["placement"]) for row in rows] == [("", "'=1+1"), ("news", "news")]
    assert (rows[1]["publisher_micros"], rows[1]["platform_micros"]) == ("175000", "75000")


events = st.lists(
    st.tuples(
        st.integers(0, 10**9),  # price
        st.sampled_from(("a", "b", "free")),  # placement
        st.sampled_from(("s1", "s2")),
        st.sampled_from(tuple(Pricing)),
        st.sampled_from(("", "bot")),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events, st.integers(0, 1_000), st.integers(0, 1_000), st.booleans(), st.integers(0, 10**10))
def test_payouts_and_the_platform_s_part_equal_the_charges(
    database: Database,
    booked: list[tuple[int, str, str, Pricing, str]],
    share: int,
    other: int,
    refunds: bool,
    budget: int,
) -> None:
    number = next(_fresh)
    store, own = PublisherStore(database), f"c{number + 5_000}"
    for name, part in (("a", share), ("b", other)):
        store.create(f"{name}{number}", part, NOW)
    CampaignStore(database).create(
        campaign(number + 5_000, advertiser_id=f"p{number}", total_budget_micros=budget or None), NOW
    )
    Ledger(database).book(
        [
            click(
                n,
                id=f"{number}-{n}",
                campaign_id=own,
                creative_id=f"{own}-1",
                placement=f"{place}{number}",
                source=f"{source}-{number}",
                price_micros=price,
                kind=kind,
                invalid=invalid if kind is Pricing.CLICK else "",
            )
            for n, (price, place, source, kind, invalid) in enumerate(booked)
        ]
    )
    if refunds:
        refund(database, Clicks(source=f"s1-{number}"), "test")
    own_places = {f"{name}{number}" for name in ("a", "b", "free")}
    lines = [line for line in paid(database) if line.placement in own_places]
    charged = sum(total.charged_micros for total in totals(database, f"p{number}"))
    assert sum(line.publisher_micros + line.platform_micros for line in lines) == charged
    assert sum(line.charged_micros - line.refunded_micros for line in lines) == charged
    assert all(line.publisher_micros >= 0 and line.platform_micros >= 0 for line in lines)
    assert all(line.publisher_micros == 0 for line in lines if not line.publisher_id)
