"""Budgets while the ledger is away: routers count what they know, share it, and stop ads before a budget is passed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.auction.accrual import CLICK_S, Accrual
from serving.auction.eligibility import EligibilityIndex, PlacementRequest
from serving.campaigns.types import Campaign, Pacing, ReviewState
from tests.serving.database.samples import NOW, campaign, creative

Start = Callable[..., Any]
BID, RATE, DELAY_S = 500_000, 0.02, 5.0


def sold(**options: Any) -> Campaign:
    usual = {"bid_micros": BID, "pacing": Pacing.ASAP, "creatives": (creative("c1-1", review=ReviewState.APPROVED),)}
    return campaign(1, **usual | options)


def test_ten_minutes_without_the_ledger_at_500_answers_a_second_pass_no_budget() -> None:
    """Ticks of 250 answers, each shows the ad while it is eligible; the budget would last for three minutes."""
    budget, draw = 900_000_000, random.Random(1)
    index, accrual = EligibilityIndex(), Accrual()
    index.put(sold(daily_budget_micros=budget))
    clicks: list[float] = []
    begin, worth, shown = NOW.timestamp(), 0, 0
    for tick in range(1_200):
        now = begin + tick / 2
        while clicks and clicks[0] <= now:
            at = heapq.heappop(clicks)
            worth += BID  # what the ledger would charge without a budget
            accrual.charge("c1", BID, at)
        accrual.settle(begin, now)
        index.set_accrued("c1", accrual.of("c1", now))
        if len(index.evaluate(PlacementRequest("a", NOW + timedelta(seconds=tick / 2), "EUR"))):
            for _ in range(250):
                shown += 1
                accrual.expect("c1", BID * RATE, now)
                if draw.random() < RATE:
                    heapq.heappush(clicks, now + draw.expovariate(1 / DELAY_S))
    assert shown > 50_000
    assert worth > 0.98 * budget
    assert worth - budget < 0.01 * budget


amounts = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 10**9), st.floats(0, 100)), max_size=30)


@given(amounts, st.floats(0, 100))
def test_charges_count_until_they_are_booked(charges: list[tuple[str, int, float]], booked_until: float) -> None:
    accrual = Accrual()
    for campaign_id, micros, at in sorted(charges, key=lambda charge: charge[2]):
        accrual.charge(campaign_id, micros, at)
    accrual.settle(booked_until, 0)
    for campaign_id in "ab":
        left = sum(micros for own, micros, at in charges if own == campaign_id and at >= booked_until)
        assert accrual.of(campaign_id, 0) == accrual.charged(campaign_id) == left
    accrual.settle(1_000, 0)
    assert list(accrual) == []


def test_expected_clicks_fade() -> None:
    accrual = Accrual()
    accrual.expect("a", 10_000.0, 100)
    accrual.expect("a", 10_000.0, 100)
    accrual.charge("a", 500_000, 110)
    assert (accrual.of("a", 100), accrual.charged("a")) == (520_000, 500_000)
    assert 505_000 < accrual.of("a", 100 + CLICK_S) < 510_000
    assert accrual.settle(0, 100 + 20 * CLICK_S) == {"a"}
    assert accrual.of("a", 100 + 20 * CLICK_S) == 500_000


def book(router: Any, wait_until: Callable[..., None], **options: Any) -> None:
    own = sold(creatives=(creative("I1", title="Imprint Running Shoes"),), **options)
    router.router.campaigns.create(own, datetime.now(UTC))
    router.router.campaigns.review("I1", ReviewState.APPROVED, datetime.now(UTC))
    wait_until(lambda: router.router.marketplace.index.get("c1") is not None)
    wait_until(lambda: "I1" in {c.ad.id for c in asked(router).candidates})


def asked(router: Any) -> Any:
    router.ask()
    return router.policy.contexts[-1]


def test_a_budget_is_kept_although_no_ledger_books(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {I1}.", ledger="elsewhere")
    book(router, wait_until, daily_budget_micros=1_200_000)
    for number in range(3):
        answer = router.ask()
        if answer["ads"]:
            headers = {"User-Agent": f"Mozilla/5.0 (X11; Linux x86_64) Firefox/14{number}.0"}
            router.click(answer["ads"][0]["click_url"], headers=headers)
    assert [click.reason for click in router.logged("clicks")] == ["", ""]
    assert "I1" not in {c.ad.id for c in asked(router).candidates}
    assert router.revenue() == {}


def test_a_link_that_is_followed_again_counts_once(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {I1}.", ledger="elsewhere")
    book(router, wait_until, daily_budget_micros=10_000_000)
    url = router.ask()["ads"][0]["click_url"]
    for _ in range(3):
        router.click(url)
    assert [click.reason for click in router.logged("clicks")] == ["", "", ""]
    assert router.router.marketplace.accrual.charged("c1") == BID
    assert 'llm_auction_clicked_micros_total{currency="EUR"' in router.get("/metrics").text
    assert f"}} {float(BID)}" in router.get("/metrics").text


def test_ads_stop_when_the_ledger_is_away_for_too_long(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {A1}.", ledger="elsewhere", stop_ads_after_s=2.0)
    assert router.ask()["ads"]
    wait_until(lambda: router.ask()["auction"].get("withheld") == "ledger:away", 30)
    state = router.get("/readyz").json()
    assert (state["status"], state["ads"]) == ("ok", "ledger:away")
    assert float(state["ledger_lag_s"]) >= 2
    assert "llm_auction_ledger_lag_seconds" in router.get("/metrics").text


def test_the_lag_ends_when_everything_is_booked(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {I1}.")
    book(router, wait_until, daily_budget_micros=10_000_000)
    router.click(router.ask()["ads"][0]["click_url"])
    assert router.router.marketplace.accrual.charged("c1") == BID
    router.wait_until_charged()
    wait_until(lambda: router.router.marketplace.accrual.charged("c1") == 0, 20)
    assert router.router.marketplace.index.spend("c1").total_micros == BID
    assert router.router.progress.lag_s < 20


def test_click_rates_are_learned_where_a_budget_depends_on_them(start: Start, wait_until: Callable[..., None]) -> None:
    router = start("Try {I1}.", pacing_s=0.1)
    book(router, wait_until, daily_budget_micros=10_000_000)
    router.click(router.ask()["ads"][0]["click_url"])
    wait_until(lambda: router.router.marketplace.rates.of("I1") > RATE, 20)
