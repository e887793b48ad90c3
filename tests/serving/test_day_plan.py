"""The plan of a day: what even pacing has spent by a moment of it, from budgets and calendar alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.auction.pacing import day_plan, next_state
from serving.campaigns.types import Campaign, CampaignState, Daypart, Pacing, Spend

MIDNIGHT = datetime(2026, 6, 10, tzinfo=UTC)
CAMPAIGN = Campaign(
    id="C1",
    advertiser_id="a",
    name="n",
    category="c",
    state=CampaignState.ACTIVE,
    bid_micros=200_000,
    currency="EUR",
    daily_budget_micros=24_000_000,
    starts_at=MIDNIGHT - timedelta(days=9),
    created_at=MIDNIGHT,
    updated_at=MIDNIGHT,
)


def planned(at: datetime, spent_today: int = 0, spent_before: int = 0, **changes: Any) -> tuple[int | None, int | None]:
    """Return allowance and plan of the changed campaign."""
    spend = Spend(campaign_id="C1", total_micros=spent_before + spent_today, day="2026-06-10", day_micros=spent_today)
    plan = day_plan(msgspec.structs.replace(CAMPAIGN, **changes), spend, at)
    return plan.allowance, plan.planned


def test_a_daily_budget_grows_with_the_hours() -> None:
    assert [planned(MIDNIGHT + timedelta(hours=h))[1] for h in (0, 6, 12, 23)] == [0, 6_000_000, 12_000_000, 23_000_000]


def test_nothing_is_planned_for_closed_hours() -> None:
    office = (Daypart(days=tuple(range(7)), from_hour=8, to_hour=20),)
    hours = [planned(MIDNIGHT + timedelta(hours=h), dayparts=office)[1] for h in (7, 8, 14, 20, 23)]
    assert hours == [0, 0, 12_000_000, 24_000_000, 24_000_000]
    sundays = (Daypart(days=(6,)),)
    assert planned(MIDNIGHT + timedelta(hours=12), dayparts=sundays) == (24_000_000, None)


def test_a_flight_that_begins_today_is_planned_over_the_rest_of_the_day() -> None:
    begins = {"starts_at": MIDNIGHT + timedelta(hours=12)}
    assert planned(MIDNIGHT + timedelta(hours=18), **begins)[1] == 12_000_000


def test_the_day_is_that_of_the_campaigns_time_zone() -> None:
    tokyo = {"time_zone": "Asia/Tokyo"}  # its day began at 15:00 UTC of the day before
    assert planned(MIDNIGHT + timedelta(hours=3), **tokyo)[1] == 12_000_000


@pytest.mark.parametrize("changes", [{"pacing": Pacing.ASAP}, {"daily_budget_micros": None}])
def test_without_an_even_budget_there_is_no_plan(changes: dict[str, Any]) -> None:
    assert planned(MIDNIGHT + timedelta(hours=12), **changes)[1] is None


@given(st.integers(0, 30_000_000), st.integers(0, 30_000_000))
def test_the_daily_share_of_a_total_budget_does_not_depend_on_todays_spend(today: int, before: int) -> None:
    """At noon of the third of four days, a quarter of what was left at its midnight is planned."""
    four_days = {
        "daily_budget_micros": None,
        "total_budget_micros": 40_000_000,
        "starts_at": MIDNIGHT - timedelta(days=2),
        "ends_at": MIDNIGHT + timedelta(days=2),
    }
    left = max(0, 40_000_000 - before)
    allowance, plan = planned(MIDNIGHT + timedelta(hours=12), today, before, **four_days)
    assert allowance == -(-left // 2)
    assert plan is not None
    assert abs(plan - left / 4) <= 1


@pytest.mark.parametrize("total", [None, 60_000_000])
def test_the_plan_and_pacing_agree_on_the_allowance(total: int | None) -> None:
    campaign = msgspec.structs.replace(CAMPAIGN, total_budget_micros=total, ends_at=MIDNIGHT + timedelta(days=4))
    spend, state = Spend(campaign_id="C1", day="2026-06-10"), None
    for minute in range(1, 24 * 60, 30):
        now = MIDNIGHT + timedelta(minutes=minute)
        plan = day_plan(campaign, spend, now)
        assert plan.planned is not None
        spend = Spend(campaign_id="C1", total_micros=plan.planned, day="2026-06-10", day_micros=plan.planned)
        state = next_state(state, campaign, spend, now)
        assert state.allowance == pytest.approx(plan.allowance, rel=1e-3)
