"""The index agrees with the rules after any changes, also where a request is asked again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.auction.eligibility import UNCOUNTED, EligibilityIndex, PlacementRequest, ReachedCaps, standing
from serving.campaigns.dayparts import day_of
from serving.campaigns.funds import Account
from serving.campaigns.types import (
    BidAdjustment,
    Campaign,
    CampaignState,
    Creative,
    Daypart,
    FrequencyCap,
    Priority,
    ReviewState,
    Spend,
    Targeting,
    with_accrued,
)
from tests.serving.eligibility_samples import ASK, CREATIVE, GOOD, LONG_AGO, NOW, change, check_same, mostly

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Auckland"]
COUNTRIES, LANGUAGES = ["DE", "fr", "US", ""], ["en", "en-GB", "de", "de_AT", ""]
CATEGORIES, PLACEMENTS, ADVERTISERS = ["Shoes", "coffee", "travel"], ["chat", "Search", "voice"], ["a1", "A2", "a3"]
KEYWORDS = ["running shoes", "coffee", "shoes", "Running", "city break", "straße", "!!"]
QUERIES = [
    "Good RUNNING shoes?",
    "shoes running",
    "coffee",
    "a city-break, or coffee",
    "Strasse",
    "",
    "running running shoes",
]


def some(values: list[str], most: int = 2) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=most).map(tuple)


moments = st.integers(-3 * 86_400_000_000, 3 * 86_400_000_000).map(lambda us: NOW + timedelta(microseconds=us))
caps = st.lists(st.builds(FrequencyCap, impressions=st.integers(1, 3), hours=st.integers(1, 48)), max_size=1).map(tuple)
budgets = st.one_of(st.none(), st.integers(0, 2_000))
dayparts = st.builds(
    Daypart,
    days=st.lists(st.integers(0, 6), min_size=1, unique=True).map(tuple),
    from_hour=st.integers(0, 12),
    to_hour=st.integers(13, 24),
)
SEGMENTS = {"country": COUNTRIES, "language": LANGUAGES, "category": CATEGORIES, "placement": PLACEMENTS}
adjustments = st.sampled_from([(d, v) for d, values in SEGMENTS.items() for v in values]).flatmap(
    lambda s: st.builds(BidAdjustment, dimension=st.just(s[0]), value=st.just(s[1]), thousandths=st.integers(0, 10_000))
)


@st.composite
def campaigns(draw: st.DrawFn, campaign_id: str) -> Campaign:
    reviews = draw(st.lists(mostly(ReviewState.APPROVED, st.sampled_from(ReviewState)), max_size=3))
    return Campaign(
        id=campaign_id,
        advertiser_id=draw(st.sampled_from(ADVERTISERS)),
        name="",
        category=draw(st.sampled_from(CATEGORIES)),
        state=draw(mostly(CampaignState.ACTIVE, st.sampled_from(CampaignState))),
        creatives=tuple(
            Creative(id=f"{campaign_id}-{i}", title="t", landing_url="https://x.example", review=review)
            for i, review in enumerate(reviews)
        ),
        bid_micros=draw(st.one_of(st.integers(0, 1_000), st.integers(0, 10**12))),
        currency=draw(mostly("EUR", st.sampled_from(["EUR", "USD"]))),
        priority=draw(mostly(Priority.STANDARD, st.sampled_from(Priority))),
        daily_budget_micros=draw(mostly(None, budgets)),
        total_budget_micros=draw(mostly(None, budgets)),
        starts_at=draw(mostly(LONG_AGO, moments)),
        ends_at=draw(mostly(None, moments)),
        time_zone=draw(st.sampled_from(ZONES)),
        dayparts=draw(mostly((), st.lists(dayparts, max_size=2).map(tuple))),
        targeting=Targeting(
            countries=draw(mostly((), some(COUNTRIES))),
            languages=draw(mostly((), some(LANGUAGES))),
            categories=draw(mostly((), some(CATEGORIES))),
            keywords=draw(mostly((), some(KEYWORDS, 3))),
            placements=draw(mostly((), some(PLACEMENTS))),
        ),
        campaign_caps=draw(mostly((), caps)),
        creative_caps=draw(mostly((), caps)),
        block_categories=draw(mostly((), some(CATEGORIES))),
        block_placements=draw(mostly((), some(PLACEMENTS))),
        adjustments=draw(mostly((), st.lists(adjustments, max_size=5).map(tuple))),
        created_at=LONG_AGO,
        updated_at=LONG_AGO,
    )


requests = st.builds(
    PlacementRequest,
    auction_id=st.integers(0, 10**6).map(str),
    now=mostly(NOW, st.one_of(moments, st.sampled_from([NOW + timedelta(seconds=30), NOW + timedelta(days=217)]))),
    currency=mostly("EUR", st.sampled_from(["eur", "USD", "JPY"])),
    country=st.sampled_from(COUNTRIES),
    language=st.sampled_from(LANGUAGES),
    category=st.sampled_from([*CATEGORIES, ""]),
    placement=st.sampled_from([*PLACEMENTS, ""]),
    query=st.sampled_from(QUERIES),
    user_id=st.sampled_from([None, "reader"]),
    consent=st.booleans(),
    publisher_blocked_categories=mostly(frozenset(), st.frozensets(st.sampled_from(["shoes", "X", ""]))),
    publisher_blocked_advertisers=mostly(frozenset(), st.frozensets(st.sampled_from(ADVERTISERS), max_size=1)),
    user_blocked_categories=mostly(frozenset(), st.frozensets(st.sampled_from(CATEGORIES), max_size=1)),
    user_blocked_advertisers=mostly(frozenset(), st.frozensets(st.sampled_from(["a2", "zz"]))),
    floor_micros=mostly(0, st.integers(0, 1_500)),
    floor_missing=mostly(False, st.booleans()),
)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Changes of an index in any order, with requests between them."""
    steps: list[tuple[Any, ...]] = []
    for _ in range(draw(st.integers(1, 14))):
        campaign_id = f"C{draw(st.integers(0, 5))}"
        kind = draw(st.sampled_from(["put", "put", "put", "remove", "spend", "accrue", "funds", "pace", "ask", "ask"]))
        if kind == "put":
            steps.append((kind, draw(campaigns(campaign_id))))
        elif kind == "remove":
            steps.append((kind, campaign_id))
        elif kind == "spend":
            day = draw(st.sampled_from(["", "2026-03-28", "2026-03-29", "2026-03-30"]))
            spent = draw(st.integers(0, 2_000))
            steps.append((kind, Spend(campaign_id=campaign_id, total_micros=spent, day=day, day_micros=spent // 2)))
        elif kind == "accrue":
            steps.append((kind, campaign_id, draw(st.integers(0, 1_000))))
        elif kind == "funds":
            account = Account(draw(st.sampled_from(ADVERTISERS)), draw(mostly("EUR", st.just("USD"))))
            left = draw(st.one_of(st.none(), st.integers(-100, 2_000)))
            steps.append((kind, account, left, draw(st.integers(0, 500))))
        elif kind == "pace":
            steps.append((kind, campaign_id, draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))))
        else:
            counted = st.frozensets(st.sampled_from(["C0", "C1", "C2"]), max_size=2)
            shown = st.frozensets(st.sampled_from(["C0-0", "C1-0", "C1-1", "C9-9"]), max_size=2)
            reached = draw(mostly(UNCOUNTED, st.builds(ReachedCaps, st.booleans(), counted, shown)))
            steps.append((kind, draw(requests), reached))
    steps.append(("ask", draw(requests), UNCOUNTED))
    return steps


@settings(max_examples=200, deadline=None)
@given(histories())
def test_the_index_agrees_with_the_rules_after_any_changes(steps: list[tuple[Any, ...]]) -> None:
    index = EligibilityIndex()
    known: dict[str, Campaign] = {}
    spends: dict[str, Spend] = {}
    owed: dict[str, int] = {}
    paces: dict[str, float] = {}
    funds: dict[Account, int] = {}
    asked: list[tuple[PlacementRequest, ReachedCaps]] = []
    for kind, *what in steps:
        if kind == "put":
            index.put(what[0])
            known[what[0].id] = what[0]
        elif kind == "remove":
            index.remove(what[0])
            if known.pop(what[0], None) is not None:
                for of_campaign in (spends, owed, paces):
                    of_campaign.pop(what[0], None)
        elif kind == "spend":
            index.set_spend(what[0])
            spends[what[0].campaign_id] = what[0]
        elif kind == "accrue":
            index.set_accrued(what[0], what[1])
            if what[0] in known:
                owed[what[0]] = what[1]
        elif kind == "funds":
            account, left, accrued = what
            index.funds.set_left(account, left)
            index.funds.set_accrued(account, accrued)
            funds.pop(account, None)
            if left is not None:
                funds[account] = left - accrued
        elif kind == "pace":
            index.set_participation(what[0], what[1])
            if what[0] in known:
                paces[what[0]] = what[1]
        else:
            asked.append((what[0], what[1]))
            for request, reached in asked[-3:]:  # earlier ones again: what was computed for them is brought up to date
                check_same(index, known, _with_owed(known, spends, owed, request), paces, funds, request, reached)


def _with_owed(
    known: dict[str, Campaign], spends: dict[str, Spend], owed: dict[str, int], request: PlacementRequest
) -> dict[str, Spend]:
    """Return the spends with what campaigns owe beyond them, as of the day of the request."""
    more = {
        id_: with_accrued(spends.get(id_) or Spend(campaign_id=id_), micros, day_of(request.now, known[id_].time_zone))
        for id_, micros in owed.items()
    }
    return spends | more


payers = st.builds(
    lambda number, advertiser, **fields: change(
        GOOD, id=f"C{number}", advertiser_id=advertiser, creatives=(change(CREATIVE, id=f"A{number}"),), **fields
    ),
    st.integers(0, 3),
    st.sampled_from(ADVERTISERS[:2]),
    bid_micros=st.integers(0, 6),
    daily_budget_micros=mostly(None, st.integers(0, 14)),
    total_budget_micros=mostly(None, st.integers(0, 14)),
    priority=mostly(Priority.STANDARD, st.sampled_from(Priority)),
    adjustments=st.lists(
        st.builds(
            BidAdjustment,
            dimension=st.just("country"),
            value=st.sampled_from(["DE", "US"]),
            thousandths=st.sampled_from([0, 500, 1_000, 2_000]),
        ),
        max_size=2,
    ).map(tuple),
)
sums = st.tuples(st.sampled_from(ADVERTISERS[:2]), st.one_of(st.none(), st.integers(-1, 14)), st.integers(0, 4))
debts = st.tuples(st.integers(0, 3).map("C{}".format), st.integers(0, 8))


@pytest.mark.parametrize("renewed", [standing.RENEWED, 0], ids=["new frames", "old frames"])
@settings(max_examples=60, deadline=None)
@given(
    first=st.lists(payers, min_size=1, max_size=4),
    steps=st.lists(st.one_of(payers, sums, sums, debts, debts), max_size=12),
)
def test_requests_asked_again_follow_accounts_and_debts(renewed: int, first: list[Campaign], steps: list[Any]) -> None:
    """So few campaigns would never be compared with a frame of earlier codes, as many are: 0 keeps every frame."""
    with patch.object(standing, "RENEWED", renewed):
        _follow_money(first, steps)


def _follow_money(first: list[Campaign], steps: list[Any]) -> None:
    index = EligibilityIndex()
    known: dict[str, Campaign] = {}
    funds: dict[Account, int] = {}
    owed: dict[str, int] = {}
    asks = [change(ASK, country=country, floor_micros=floor) for country in ("DE", "US", "FR") for floor in (0, 3)]
    for step in [*first, *steps]:
        if isinstance(step, Campaign):
            index.put(step)
            known[step.id] = step
        elif len(step) == 2:
            index.set_accrued(*step)
            if step[0] in known:
                owed[step[0]] = step[1]
        else:
            advertiser, left, accrued = step
            account = Account(advertiser, "EUR")
            index.funds.set_left(account, left)
            index.funds.set_accrued(account, accrued)
            funds.pop(account, None)
            if left is not None:
                funds[account] = left - accrued
        for ask in (*asks, change(ASK, floor_missing=True)):
            check_same(index, known, _with_owed(known, {}, owed, ask), {}, funds, ask, UNCOUNTED)
