"""Reports: every figure is the sum of its records, every line leads to its charges, and no CSV cell is a formula."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter, defaultdict
from datetime import timedelta
from itertools import chain, combinations, product
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Campaign, Pricing
from serving.database.engine import Database
from serving.ledger.charging import Ledger
from serving.ledger.entries import Auction, AuctionEntry, BadAuctions
from serving.reports.reports import Dimension, Line, Query, Record, as_csv, as_json, charges_of, events_of, report
from tests.serving.database.samples import NOW, campaign, click, creative


def auction(number: int, *shown: str, **options: object) -> Auction:
    """Auction <number> of creatives c1-1, c1-2 and c2-1."""
    entries = tuple(AuctionEntry(campaign_id=c[:2], creative_id=c, shown=c in shown) for c in ("c1-1", "c1-2", "c2-1"))
    usual = {"id": f"auction-{number}", "occurred_at": NOW, "placement": "chat", "model_version": "m1"}
    return Auction(**usual | {"entries": entries} | options)  # type: ignore[arg-type]


@pytest.fixture
def traffic(database: Database) -> Database:
    """Two advertisers, two currencies, two days, two placements; ten auctions, nine events with every result."""
    store = CampaignStore(database)
    store.create(campaign(1, creatives=(creative("c1-1"), creative("c1-2")), total_budget_micros=600_000), NOW)
    store.create(campaign(2, advertiser_id="a2", currency="USD", time_zone="Asia/Tokyo"), NOW)
    batch = [auction(n, "c1-1") for n in range(6)]
    batch += [auction(n, "c1-2", "c2-1", placement="search", model_version="m2") for n in range(6, 10)]
    Ledger(database).book(auctions=batch)
    usd = {"campaign_id": "c2", "creative_id": "c2-1", "currency": "USD", "model_version": "m2"}
    events = [
        *(click(n) for n in range(4)),
        click(4, creative_id="c1-2", placement="search", occurred_at=NOW - timedelta(days=1)),
        click(5, invalid="prefetch"),
        click(6, **usd, occurred_at=NOW + timedelta(hours=6)),
        click(7, **usd, kind=Pricing.IMPRESSION, price_micros=10),
        click(8, **usd, price_micros=0),
    ]
    Ledger(database).book(events)
    return database


def every_event(database: Database, line: Line) -> list[Record]:
    found, cursor = [], ""
    while True:
        page = events_of(database, line, cursor, limit=2)
        found += page.items
        cursor = page.cursor
        if not cursor:
            return found


def test_totals_by_campaign(traffic: Database) -> None:
    lines = report(traffic, Query(group_by=(Dimension.CAMPAIGN,)))
    figures = [(o.campaign_id, o.currency, o.auctions, o.impressions, o.clicks, o.charged_clicks) for o in lines]
    assert figures == [("c1", "EUR", 10, 10, 5, 3), ("c2", "USD", 10, 4, 2, 1)]
    assert [line.revenue_micros for line in lines] == [600_000, 250_010]


@pytest.mark.parametrize("dimension", list(Dimension))
def test_each_line_is_the_sum_of_its_events(traffic: Database, dimension: Dimension) -> None:
    lines = report(traffic, Query(group_by=(dimension,)))
    traced = Counter[str]()
    for line in lines:
        events = every_event(traffic, line)
        traced.update(event.id for event in events)
        assert sum(event.charged_micros for event in events) == line.revenue_micros
        assert sum(event.kind == "click" and not event.invalid for event in events) == line.clicks
        assert sum(event.kind == "click" and event.charged_micros > 0 for event in events) == line.charged_clicks
    assert traced == Counter({f"k{n}": 1 for n in range(9)})


def test_lines_by_all_dimensions_add_up_to_the_total(traffic: Database) -> None:
    whole, fine = report(traffic, Query()), report(traffic, Query(group_by=tuple(Dimension)))
    for line in whole:
        same = [part for part in fine if part.currency == line.currency]
        for name in ("impressions", "clicks", "charged_clicks", "revenue_micros"):
            assert sum(getattr(part, name) for part in same) == getattr(line, name)
    places = {tuple(getattr(part, dimension.value) for dimension in Dimension) for part in fine}
    assert len(places) == len(fine) > len(whole)


ZONES = ("Etc/GMT+12", "Pacific/Honolulu", "UTC", "Asia/Tokyo", "Pacific/Kiritimati")


@pytest.mark.parametrize("seed", [0, 1])
def test_an_auction_counts_once_in_every_line(database: Database, seed: int) -> None:
    # However many creatives, campaigns, advertisers and days of it are in that line.
    draw = random.Random(seed)
    created = {}
    for n in range(1, 9):
        whose = {"advertiser_id": f"a{n % 3}", "currency": draw.choice(("EUR", "USD")), "time_zone": draw.choice(ZONES)}
        created[f"c{n}"] = CampaignStore(database).create(
            campaign(n, creatives=(creative(f"c{n}-1"), creative(f"c{n}-2")), **whose), NOW
        )
    batch = [
        auction(
            number,
            occurred_at=NOW + timedelta(hours=draw.randrange(72)),
            placement=draw.choice(("chat", "search")),
            model_version=draw.choice(("m1", "m2")),
            entries=tuple(
                AuctionEntry(campaign_id=name, creative_id=f"{name}-{version}")
                for name in draw.sample(sorted(created), draw.randrange(1, 6))
                for version in draw.choice(((1,), (2,), (1, 2)))
            ),
        )
        for number in range(150)
    ]
    for part in (batch[:100], batch[90:]):
        Ledger(database).book(auctions=part)
    within: list[dict[str, str]] = [{}, {"first_day": "2026-11-25"}, {"last_day": "2026-11-25"}]
    within += [{"first_day": "2026-11-25", "last_day": "2026-11-26"}]
    whose_lines: list[dict[str, str]] = [{}, {"advertiser_id": "a1"}, {"campaign": "c4"}]
    for days, whose in product(within, whose_lines):
        for chosen in chain.from_iterable(combinations(Dimension, count) for count in range(6)):
            query = Query(group_by=chosen, **days, **whose)
            lines = {
                (*(getattr(line, d.value) for d in chosen), line.currency): line.auctions
                for line in report(database, query)
            }
            assert lines == _distinct(batch, created, query), query


def _distinct(batch: list[Auction], created: dict[str, Campaign], query: Query) -> dict[tuple[str, ...], int]:
    """Count auctions one by one, by the values of a line's keys."""
    found = defaultdict[tuple[str, ...], set[str]](set)
    for one in batch:
        for entry in one.entries:
            own = created[entry.campaign_id]
            day = one.occurred_at.astimezone(ZoneInfo(own.time_zone)).date().isoformat()
            place = {"campaign_id": own.id, "creative_id": entry.creative_id, "day": day}
            place |= {"placement": one.placement, "model_version": one.model_version}
            if (
                query.first_day <= day <= (query.last_day or "9")
                and query.advertiser_id in ("", own.advertiser_id)
                and query.campaign in ("", own.id)
            ):
                found[*(place[d.value] for d in query.group_by), own.currency].add(one.id)
    return {key: len(ids) for key, ids in found.items()}


def test_days_are_the_campaigns_own(traffic: Database) -> None:
    lines = report(traffic, Query(group_by=(Dimension.DAY,), campaign="c2"))
    assert [(line.day, line.clicks) for line in lines] == [("2026-11-24", 1), ("2026-11-25", 1)]


def test_a_report_is_limited_to_days_and_to_an_advertiser(traffic: Database) -> None:
    (old,) = report(traffic, Query(last_day="2026-11-23"))
    assert (old.clicks, old.charged_clicks, old.auctions) == (1, 0, 0)  # the budget was used up before it came
    (own,) = report(traffic, Query(advertiser_id="a2", first_day="2026-11-25", last_day="2026-11-25"))
    assert (own.currency, own.revenue_micros) == ("USD", 250_000)
    assert [event.id for event in every_event(traffic, own)] == ["k6"]
    assert report(traffic, Query(advertiser_id="a3")) == []
    assert report(traffic, Query(first_day="2027-01-01")) == []


def test_an_auction_reported_twice_counts_once(traffic: Database) -> None:
    before = report(traffic, Query())
    new = auction(99, placement="search")
    ledger = Ledger(traffic)
    ledger.book(auctions=[auction(1), new, new, auction(2)])
    assert report(traffic, Query())[0].auctions == before[0].auctions + 1
    unknown = auction(101, entries=(AuctionEntry(campaign_id="c9", creative_id="x"),))
    with pytest.raises(BadAuctions, match="no campaign has this id") as raised:
        ledger.book([click(99)], auctions=[auction(100), unknown])
    assert [index for index, _ in raised.value.rejected] == [1]
    assert charges_of(traffic, event_id="k99").items == ()  # nothing of the batch is booked
    ledger.book(auctions=[auction(100)])
    assert report(traffic, Query())[0].auctions == before[0].auctions + 2


def test_charges_are_found_by_auction_and_by_click(traffic: Database) -> None:
    assert [r.id for r in charges_of(traffic, auction_id="auction-3").items] == ["k3"]
    assert [r.reason for r in charges_of(traffic, event_id="k5").items] == ["invalid:prefetch"]
    assert charges_of(traffic, event_id="none").items == ()
    with pytest.raises(InputError, match="cursor"):
        charges_of(traffic, cursor="WzFd")


def test_a_line_sent_as_json_still_leads_to_its_events(traffic: Database) -> None:
    class Sent(msgspec.Struct):
        lines: list[Line]

    lines = report(traffic, Query(group_by=(Dimension.PLACEMENT, Dimension.DAY), advertiser_id="a1"))
    back = msgspec.json.decode(as_json(lines), type=Sent).lines
    assert back == lines
    assert [every_event(traffic, line) for line in back] == [every_event(traffic, line) for line in lines]


def test_csv_has_the_lines_under_a_header(traffic: Database) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(report(traffic, Query(group_by=(Dimension.CAMPAIGN,)))))))
    assert rows[1] == {
        "campaign_id": "c2",
        "currency": "USD",
        "auctions": "10",
        "impressions": "4",
        "clicks": "2",
        "charged_clicks": "1",
        "revenue_micros": "250010",
        "invalid_clicks": "0",
        "refunded_micros": "0",
        "conversions": "0",
        "conversion_value_micros": "0",
        "net_micros": "250010",
        "house_impressions": "0",
        "house_clicks": "0",
        "priority": "standard",
        "revenue": "0.250010",
    }
    assert as_csv([]).startswith('"campaign_id"')


@given(st.sampled_from(["", "=", "+", "-", "@", "\t", "\r", "\n", "＝", '"', ",", ";"]), st.text(max_size=20))
def test_no_csv_cell_starts_like_a_formula(start: str, rest: str) -> None:
    counted = {"auctions": 1, "impressions": 1, "clicks": 1, "charged_clicks": 1, "revenue_micros": 10**18 + 1}
    query = Query(group_by=(Dimension.PLACEMENT,))
    line = Line(placement=start + rest, currency="EUR", query=query, **counted)
    header, row = csv.reader(io.StringIO(as_csv([line]), newline=""))
    assert len(row) == len(header)
    assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert row[0] in (start + rest, f"'{start + rest}")
    assert row[-1] == "1000000000000.000001"


@pytest.mark.parametrize(
    "bad",
    [
        {"first_day": "24.11.2026"},
        {"last_day": "20261124"},
        {"first_day": "2026-11-25", "last_day": "2026-11-24"},
        {"group_by": (Dimension.DAY, Dimension.DAY)},
    ],
)
def test_a_bad_query_is_bad_input(bad: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Query(**bad)  # type: ignore[arg-type]
