"""Each rule of eligibility excludes with its own reason, and adjusted bids are exact."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from mechanism.errors import InputError
from serving.answering.auction_records import EvaluationSummary
from serving.auction.eligibility import UNCOUNTED, EligibilityIndex, ReachedCaps, Reason, rules
from serving.campaigns.funds import Account
from serving.campaigns.types import (
    BidAdjustment,
    CampaignState,
    Daypart,
    FrequencyCap,
    Priority,
    ReviewState,
    Spend,
    Targeting,
)
from tests.serving.eligibility_samples import ASK, CREATIVE, GOOD, NOW, change, only_bid, reasons

CAP = (FrequencyCap(impressions=1, hours=1),)


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
