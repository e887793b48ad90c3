"""Auction records: the summary of an evaluation agrees with the rules; rates for money are probabilities."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.types import MarkerChoice
from serving.accounts.keys import AccountStore, Role, ensure_administrator
from serving.answering.auction_records import (
    AnswerOutcome,
    AuctionLog,
    AuctionRecord,
    EvaluationSummary,
    OwnedRecord,
    new_auction_id,
)
from serving.auction.eligibility import EligibilityIndex, PlacementRequest, ReachedCaps, rules
from serving.auction.rates import ClickRates, insertion_rates
from serving.campaigns.types import (
    Campaign,
    CampaignState,
    Creative,
    FrequencyCap,
    ReviewState,
    Targeting,
)
from serving.database.engine import Database
from serving.database.migrations import migrate

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def campaigns(seed: int, count: int) -> list[Campaign]:
    chance, reviews = random.Random(seed), list(ReviewState)
    made = []
    for number in range(count):
        creatives = tuple(
            Creative(id=f"c{number}-{k}", title="T", landing_url="https://x.example/", review=chance.choice(reviews))
            for k in range(chance.randrange(4))
        )
        made.append(
            Campaign(
                id=f"c{number}",
                advertiser_id=f"a{chance.randrange(3)}",
                name="n",
                category=chance.choice(["x", "y"]),
                state=chance.choice([*CampaignState, CampaignState.ACTIVE, CampaignState.ACTIVE]),
                creatives=creatives,
                bid_micros=chance.randrange(4),
                currency=chance.choice(["EUR", "EUR", "USD"]),
                starts_at=NOW + timedelta(hours=chance.choice([-1, -1, 1])),
                targeting=Targeting(countries=chance.choice([(), ("DE",), ("FR",)])),
                campaign_caps=chance.choice([(), (FrequencyCap(impressions=1, hours=1),)]),
                created_at=NOW,
                updated_at=NOW,
            )
        )
    return made


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 30), st.booleans())
def test_the_summary_of_an_evaluation_agrees_with_the_rules(seed: int, count: int, consent: bool) -> None:
    index, booked = EligibilityIndex(), campaigns(seed, count)
    for campaign in booked:
        index.put(campaign)
    request = PlacementRequest(
        auction_id="a",
        now=NOW,
        currency="EUR",
        country="DE",
        consent=consent,
        floor_micros=1,
        publisher_blocked_advertisers=frozenset({"a1"}),
    )
    caps = ReachedCaps(consent, frozenset({"c3"}), frozenset({"c1-0", "c2-1"}))
    summary = EvaluationSummary.of(index.evaluate(request, caps))
    decisions = rules.evaluate(booked, request, {}, {}, caps, {})
    excluded = {(d.campaign_id, d.creative_id): d.reason for d in decisions if d.reason}
    assert {(e.campaign_id, e.ad_id): e.reason for e in summary.exclusions()} == excluded
    eligible = {d.creative_id: d.bid for d in decisions if d.reason is None}
    assert {e.ad_id: e.bid_micros for e in summary.eligible()} == eligible
    by_reason: dict[str, set[str]] = {}
    for (campaign_id, creative_id), reason in excluded.items():
        by_reason.setdefault(reason, set()).add(creative_id if reason.of_creative else campaign_id)
    assert summary.counts == {reason: len(ids) for reason, ids in by_reason.items()}


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1), st.integers(1, 10**4))
def test_a_click_rate_is_a_probability_near_what_was_seen(shown: int, clicks: int, prior: float, strength: int) -> None:
    rate = ClickRates(prior, strength).updated({"x": (shown, clicks)}).of("x")
    assert 0 <= rate <= 1
    if clicks <= shown and shown:
        low, high = sorted((Fraction(clicks, shown), Fraction(prior).limit_denominator(1_000_000)))
        assert low <= rate <= high


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 1), min_size=1), max_size=4))
def test_an_insertion_rate_is_that_of_at_least_one_marker(markers: list[dict[str, float]]) -> None:
    choices = [MarkerChoice(next(iter(m)), m) for m in markers]
    rates = insertion_rates(choices, "abcd")
    assert all(0 <= rate <= 1 for rate in rates.values())
    assert rates["d"] == 0
    for ad in "abc":
        assert rates[ad] >= max((Fraction(m.get(ad, 0.0)) for m in markers), default=Fraction(0))


def test_the_newest_records_are_kept_and_paged() -> None:
    fields: dict[str, Any] = {
        field.name: (getattr(field.type, "__origin__", None) or field.type)()
        for field in msgspec.structs.fields(AuctionRecord)
        if field.type is not AnswerOutcome
    }
    fields["outcome"] = AnswerOutcome.CUT
    log, ids = AuctionLog(3), sorted(new_auction_id() for _ in range(5))
    for number, auction_id in enumerate(ids):
        record = AuctionRecord(**fields | {"auction_id": auction_id})
        log.add(OwnedRecord(record, owner="me" if number % 2 else "", evaluation=None))
    assert [k.record.auction_id for k in log.newest(None, "", 9)] == ids[:1:-1]
    assert [k.record.auction_id for k in log.newest("me", "", 9)] == [ids[3]]
    assert [k.record.auction_id for k in log.newest(None, ids[3], 9)] == [ids[2]]
    newest = log.get(ids[4])
    assert newest is not None
    assert newest.record == AuctionRecord(**fields | {"auction_id": ids[4]})
    assert log.get(ids[0]) is None


def test_the_first_administrators_key_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    migrate(url)
    database = Database(url)
    accounts = AccountStore(database, [b"x" * 32])
    path = ensure_administrator(accounts, tmp_path, NOW, {})
    assert path is not None
    secret = path.read_text().strip()
    assert ensure_administrator(accounts, tmp_path, NOW, {}) == path
    assert path.read_text().strip() == secret
    assert path.stat().st_mode & 0o777 == 0o600
    found = accounts.find(secret, NOW)
    assert found is not None
    assert found.role is Role.ADMIN
    assert ensure_administrator(accounts, tmp_path, NOW, {"LLM_AUCTION_ADMIN_KEY": "y" * 40}) is None
    database.close()


@pytest.mark.parametrize("count", [1, 100])
def test_auction_ids_sort_by_time(count: int) -> None:
    ids = [new_auction_id() for _ in range(count)]
    assert len(set(ids)) == count
    assert all(i[14] == "7" for i in ids)
