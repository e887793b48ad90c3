"""The index agrees with the rules after any changes, and each rule excludes with its own reason."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mechanism.errors import InputError
from serving.answering.auction_records import EvaluationSummary
from serving.auction.eligibility import (
    UNCOUNTED,
    EligibilityIndex,
    Evaluation,
    PlacementRequest,
    ReachedCaps,
    Reason,
    rules,
)
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
)

NOW = datetime(2026, 3, 29, 0, 59, 30, tzinfo=UTC)  # half a minute before Berlin skips an hour
LONG_AGO = NOW - timedelta(days=400)
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


def mostly(usual: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """`usual` in two of three cases: a campaign that any rule could exclude would seldom pass the first."""
    return st.one_of(st.just(usual), st.just(usual), other)


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
        kind = draw(st.sampled_from(["put", "put", "put", "remove", "spend", "funds", "pace", "ask", "ask"]))
        if kind == "put":
            steps.append((kind, draw(campaigns(campaign_id))))
        elif kind == "remove":
            steps.append((kind, campaign_id))
        elif kind == "spend":
            day = draw(st.sampled_from(["", "2026-03-28", "2026-03-29", "2026-03-30"]))
            spent = draw(st.integers(0, 2_000))
            steps.append((kind, Spend(campaign_id=campaign_id, total_micros=spent, day=day, day_micros=spent // 2)))
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
                spends.pop(what[0], None)
                paces.pop(what[0], None)
        elif kind == "spend":
            index.set_spend(what[0])
            spends[what[0].campaign_id] = what[0]
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
                check_same(index, known, spends, paces, funds, request, reached)


payers = st.builds(
    lambda number, advertiser, **fields: change(
        GOOD, id=f"C{number}", advertiser_id=advertiser, creatives=(change(CREATIVE, id=f"A{number}"),), **fields
    ),
    st.integers(0, 3),
    st.sampled_from(ADVERTISERS[:2]),
    bid_micros=st.integers(0, 6),
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


@settings(max_examples=100, deadline=None)
@given(st.lists(payers, min_size=1, max_size=4), st.lists(st.one_of(payers, sums, sums, sums), max_size=12))
def test_requests_asked_again_follow_the_accounts(first: list[Campaign], steps: list[Any]) -> None:
    index = EligibilityIndex()
    known: dict[str, Campaign] = {}
    funds: dict[Account, int] = {}
    asks = [change(ASK, country=country, floor_micros=floor) for country in ("DE", "US", "FR") for floor in (0, 3)]
    for step in [*first, *steps]:
        if isinstance(step, Campaign):
            index.put(step)
            known[step.id] = step
        else:
            advertiser, left, accrued = step
            account = Account(advertiser, "EUR")
            index.funds.set_left(account, left)
            index.funds.set_accrued(account, accrued)
            funds.pop(account, None)
            if left is not None:
                funds[account] = left - accrued
        for ask in (*asks, change(ASK, floor_missing=True)):
            check_same(index, known, {}, {}, funds, ask, UNCOUNTED)


def check_same(
    index: EligibilityIndex,
    known: dict[str, Campaign],
    spends: dict[str, Spend],
    paces: dict[str, float],
    funds: dict[Account, int],
    request: PlacementRequest,
    reached: ReachedCaps,
) -> None:
    expected = rules.evaluate(known.values(), request, spends, paces, reached, funds)
    found = index.evaluate(request, reached)
    assert reasons(found) == {(d.campaign_id, d.creative_id): d.reason for d in expected}
    rows = {c.id: list(index.rows_of(c.id)) for c in known.values()}
    every = sorted(row for taken in rows.values() for row in taken)
    assert len(set(every)) == len(every)
    admitted = np.array(every, np.int64)[found.admits(np.array(every, np.int64))]
    eligible = found.eligible(admitted)
    assert len(found) == len(eligible)
    wanted = {(d.campaign_id, d.creative_id, d.bid) for d in expected if d.reason is None}
    assert {(e.campaign.id, e.creative.id, e.bid) for e in eligible} == wanted
    assert {(e.campaign_id, e.ad_id, e.bid_micros) for e in EvaluationSummary.of(found).eligible()} == wanted
    assert all(row in rows[e.campaign.id] for row, e in zip(admitted.tolist(), eligible, strict=True))
    excluded = {(d.reason, d.creative_id if d.reason.of_creative else d.campaign_id) for d in expected if d.reason}
    assert found.counts == Counter(reason for reason, _ in excluded)
    assert found.campaign_count == len(known)
    check_tiers(found, np.array(every, np.int64))


def check_tiers(found: Evaluation, rows: NDArray[np.int64]) -> None:
    """The tiers, the highest first, share the eligible creatives out by priority."""
    tiers = list(found.tiers())
    ranks = [priority.rank for priority, _ in tiers]
    assert ranks == sorted(set(ranks), reverse=True)
    offered = [(priority, one) for priority, tier in tiers for one in tier.eligible(rows[tier.admits(rows)])]
    assert all(one.campaign.priority is priority for priority, one in offered)
    eligible = found.eligible(rows[found.admits(rows)])
    assert sorted(one.creative.id for _, one in offered) == sorted(one.creative.id for one in eligible)
    for priority, tier in tiers:
        admitted = rows[tier.admits(rows)]
        assert len(tier) == len(admitted)
        assert len(tier) or (priority is Priority.STANDARD and len(tiers) == 1)
        if tier.few_rows is not None:
            few: NDArray[np.int64] = tier.few_rows
            assert sorted(few[tier.admits(few)].tolist()) == sorted(admitted.tolist())


def reasons(evaluation: Evaluation) -> dict[tuple[str, str], Reason | None]:
    """Why each creative is excluded, None if it is eligible, by ids of campaign and creative."""
    summary = EvaluationSummary.of(evaluation)
    found: dict[tuple[str, str], Reason | None] = {(e.campaign_id, e.ad_id): e.reason for e in summary.exclusions()}
    return found | {(e.campaign_id, e.ad_id): None for e in summary.eligible()}


def only_bid(evaluation: Evaluation) -> int:
    """The bid of the only eligible creative, which has the first row."""
    assert len(evaluation) == 1
    assert evaluation.admits(np.zeros(1, np.int64)).all()
    return evaluation.eligible(np.zeros(1, np.int64))[0].bid


CREATIVE = Creative(id="A1", title="t", landing_url="https://x.example", review=ReviewState.APPROVED)
GOOD = Campaign(
    id="C1",
    advertiser_id="kestrel",
    name="n",
    category="shoes",
    state=CampaignState.ACTIVE,
    creatives=(CREATIVE,),
    bid_micros=100,
    currency="EUR",
    starts_at=LONG_AGO,
    created_at=LONG_AGO,
    updated_at=LONG_AGO,
)
ASK = PlacementRequest(
    auction_id="x",
    now=NOW,
    currency="EUR",
    country="DE",
    language="en-GB",
    category="sport",
    placement="chat",
    query="good running shoes",
    user_id="reader",
    consent=True,
)
CAP = (FrequencyCap(impressions=1, hours=1),)


def change(record: Any, **fields: Any) -> Any:
    replace = msgspec.structs.replace if isinstance(record, msgspec.Struct) else __import__("dataclasses").replace
    return replace(record, **fields)


@pytest.mark.parametrize(
    ("reason", "campaign", "request_", "more"),
    [
        (None, {}, {}, {}),
        (Reason.PAUSED, {"state": CampaignState.PAUSED}, {}, {}),
        (Reason.ENDED, {"state": CampaignState.ENDED}, {}, {}),
        (Reason.ENDED, {"ends_at": NOW}, {}, {}),
        (None, {"ends_at": NOW + timedelta(microseconds=1)}, {}, {}),
        (Reason.NOT_STARTED, {"starts_at": NOW + timedelta(microseconds=1)}, {}, {}),
        (None, {"starts_at": NOW}, {}, {}),
        (None, {"time_zone": "Europe/Berlin", "dayparts": (Daypart(days=(6,), from_hour=1, to_hour=2),)}, {}, {}),
        (  # Berlin's clock goes from 01:59:59 to 03:00:00: the hour from two never comes
            Reason.OUTSIDE_DAYPART,
            {"time_zone": "Europe/Berlin", "dayparts": (Daypart(days=(6,), from_hour=1, to_hour=3),)},
            {"now": NOW + timedelta(seconds=30)},
            {},
        ),
        (Reason.NO_CREATIVE, {"creatives": ()}, {}, {}),
        (Reason.CURRENCY, {"currency": "USD"}, {}, {}),
        (Reason.BUDGET_TOTAL, {"total_budget_micros": 150}, {}, {"spent": 51}),
        (None, {"total_budget_micros": 150}, {}, {"spent": 50}),
        (Reason.BUDGET_TOTAL, {"total_budget_micros": 0, "bid_micros": 0}, {}, {}),
        (Reason.BUDGET_DAILY, {"daily_budget_micros": 150}, {}, {"spent": 51}),
        (None, {"daily_budget_micros": 150}, {}, {"spent": 51, "day": "2026-03-28"}),
        (Reason.FUNDS, {}, {}, {"left": 99}),
        (Reason.FUNDS, {"bid_micros": 0}, {}, {"left": 0}),
        (None, {}, {}, {"left": 100}),
        (Reason.FUNDS, {}, {}, {"left": 100, "accrued": 1}),
        (Reason.COUNTRY, {"targeting": Targeting(countries=("FR",))}, {}, {}),
        (Reason.COUNTRY, {"targeting": Targeting(countries=("DE",))}, {"country": ""}, {}),
        (None, {"targeting": Targeting(languages=("en",))}, {}, {}),
        (Reason.LANGUAGE, {"targeting": Targeting(languages=("en-US",))}, {}, {}),
        (Reason.CATEGORY, {"targeting": Targeting(categories=("food",))}, {}, {}),
        (Reason.PLACEMENT, {"targeting": Targeting(placements=("voice",))}, {}, {}),
        (None, {"targeting": Targeting(keywords=("tea", "Running Shoes"))}, {}, {}),
        (Reason.KEYWORD, {"targeting": Targeting(keywords=("shoe", "shoes running"))}, {}, {}),
        (Reason.BLOCKED_BY_ADVERTISER, {"block_categories": ("Sport",)}, {}, {}),
        (Reason.BLOCKED_BY_ADVERTISER, {"block_placements": ("chat",)}, {}, {}),
        (Reason.BLOCKED_BY_PUBLISHER, {}, {"publisher_blocked_categories": frozenset({"Shoes"})}, {}),
        (Reason.BLOCKED_BY_PUBLISHER, {}, {"publisher_blocked_advertisers": frozenset({"kestrel"})}, {}),
        (Reason.BLOCKED_BY_USER, {}, {"user_blocked_categories": frozenset({"shoes"})}, {}),
        (Reason.BLOCKED_BY_USER, {}, {"user_blocked_advertisers": frozenset({"Kestrel"})}, {}),
        (Reason.CONSENT_MISSING, {"campaign_caps": CAP}, {"consent": False}, {}),
        (Reason.FREQUENCY_UNCOUNTED, {"creative_caps": CAP}, {}, {"reached": UNCOUNTED}),
        (Reason.FREQUENCY_CAMPAIGN, {"campaign_caps": CAP}, {}, {"reached": ReachedCaps(True, frozenset({"C1"}))}),
        (None, {}, {}, {"reached": ReachedCaps(True, frozenset({"C1"}))}),  # the cap was removed
        (
            Reason.FREQUENCY_CREATIVE,
            {"creative_caps": CAP},
            {},
            {"reached": ReachedCaps(True, creatives=frozenset({"A1"}))},
        ),
        (Reason.BID_BELOW_FLOOR, {}, {"floor_micros": 101}, {}),
        (None, {}, {"floor_micros": 100}, {}),
        (Reason.FLOOR_CURRENCY, {}, {"floor_missing": True, "floor_micros": 101}, {}),
        (None, {"priority": Priority.HOUSE}, {"floor_missing": True, "floor_micros": 101}, {}),
        (Reason.BID_BELOW_FLOOR, {"priority": Priority.SPONSORSHIP}, {"floor_micros": 101}, {}),
        (
            None,
            {"adjustments": (BidAdjustment(dimension="country", value="de", thousandths=1_010),)},
            {"floor_micros": 101},
            {},
        ),
        (Reason.PACED, {}, {}, {"participation": 0.0}),
        (Reason.REVIEW_PENDING, {"creatives": (change(CREATIVE, review=ReviewState.PENDING),)}, {}, {}),
        (Reason.REVIEW_REJECTED, {"creatives": (change(CREATIVE, review=ReviewState.REJECTED),)}, {}, {}),
    ],
)
def test_each_rule_excludes_with_its_own_reason(
    reason: Reason | None, campaign: dict[str, Any], request_: dict[str, Any], more: dict[str, Any]
) -> None:
    index, one, ask = EligibilityIndex(), change(GOOD, **campaign), change(ASK, **request_)
    index.put(one)
    spent = more.get("spent", 0)
    spend = Spend(campaign_id="C1", total_micros=spent, day=more.get("day", "2026-03-29"), day_micros=spent)
    index.set_spend(spend)
    index.set_participation("C1", more.get("participation", 1.0))
    reached = more.get("reached", ReachedCaps(countable=True))
    account, left, accrued = Account("kestrel", "EUR"), more.get("left"), more.get("accrued", 0)
    index.funds.set_left(account, left)
    index.funds.set_accrued(account, accrued)
    funds = {} if left is None else {account: left - accrued}
    expected = rules.evaluate([one], ask, {"C1": spend}, {"C1": more.get("participation", 1.0)}, reached, funds)
    assert [decision.reason for decision in expected] == [reason]
    assert list(reasons(index.evaluate(ask, reached)).values()) == [reason]


def test_products_beyond_64_bits_are_exact_as_well() -> None:
    languages = [("language", "en"), ("language", "en-gb")]
    segments = [("country", "de"), *languages, ("category", "sport"), ("placement", "chat")]
    adjusted = change(
        GOOD,
        bid_micros=999_999_999_999,
        adjustments=tuple(BidAdjustment(dimension=d, value=v, thousandths=9_973) for d, v in segments),
    )
    index = EligibilityIndex()
    index.put(adjusted)
    assert only_bid(index.evaluate(ASK)) == 999_999_999_999 * 9_973**5 // 10**15


def test_adjustments_multiply_and_round_down_once() -> None:
    adjusted = change(
        GOOD,
        bid_micros=999,
        adjustments=tuple(
            BidAdjustment(dimension=d, value=v, thousandths=t)
            for d, v, t in [("country", "de", 1_501), ("language", "en", 333), ("placement", "voice", 9)]
        ),
    )
    index = EligibilityIndex()
    index.put(adjusted)
    assert only_bid(index.evaluate(ASK)) == 999 * 1_501 * 333 // 1_000_000


def test_an_evaluation_is_independent_of_later_changes() -> None:
    index = EligibilityIndex()
    index.put(GOOD)
    index.put(change(GOOD, id="C2", creatives=(change(CREATIVE, id="A2"),), state=CampaignState.PAUSED))
    before = index.evaluate(ASK)
    expected = {("C1", "A1"): None, ("C2", "A2"): Reason.PAUSED}
    assert reasons(before) == expected
    index.remove("C1")
    index.put(change(GOOD, id="C3", creatives=(change(CREATIVE, id="A3"),), bid_micros=5))
    index.put(change(GOOD, id="C2", creatives=(change(CREATIVE, id="A2"),)))
    assert reasons(before) == expected
    assert [(e.ad_id, e.bid_micros) for e in EvaluationSummary.of(before).eligible()] == [("A1", 100)]


def test_an_invalid_campaign_is_rejected_and_changes_nothing() -> None:
    index = EligibilityIndex()
    index.put(GOOD)
    too_much = tuple(BidAdjustment(dimension="country", value="de", thousandths=10**6) for _ in range(6))
    for bad in ({"time_zone": "Europe/Atlantis"}, {"adjustments": too_much}, {"bid_micros": -1}):
        with pytest.raises(InputError):
            index.put(change(GOOD, **bad))
    assert len(index) == 1
    assert only_bid(index.evaluate(ASK)) == 100
