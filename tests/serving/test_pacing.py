"""Even pacing over simulated days: within the budget and along an even line under any traffic."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import ConfigError
from serving.auction.pacing import (
    WHOLE,
    PacingSettings,
    PacingState,
    auction_seed,
    campaign_key,
    coins,
    next_state,
    participates,
    threshold,
)
from serving.campaigns.dayparts import open_intervals, overlap_s, zone
from serving.campaigns.types import Campaign, CampaignState, Daypart, Pacing, Spend

MIDNIGHT = datetime(2026, 6, 10, tzinfo=UTC)
BID = 200_000
CAMPAIGN = Campaign(
    id="C1",
    advertiser_id="a",
    name="n",
    category="c",
    state=CampaignState.ACTIVE,
    bid_micros=BID,
    currency="EUR",
    daily_budget_micros=500 * BID,
    starts_at=MIDNIGHT - timedelta(days=9),
    created_at=MIDNIGHT,
    updated_at=MIDNIGHT,
)
Traffic = Callable[[float], float]


def change(campaign: Campaign, **fields: Any) -> Campaign:
    return msgspec.structs.replace(campaign, **fields)


def steady(hour: float) -> float:
    return 120.0


def waves(hour: float) -> float:
    """Few at night, many in the evening."""
    return 120 * (1 + 0.8 * math.sin((hour - 12) / 24 * 2 * math.pi))


def jumps(hour: float) -> float:
    return 60.0 if hour < 10 else 300.0


class World:
    """A ledger, readers who click at random, and a pacing update every five minutes."""

    def __init__(self, campaign: Campaign, seed: int = 1, clicks: float = 0.05) -> None:
        self.campaign, self.random, self.clicks = campaign, random.Random(seed), clicks
        self.spend = Spend(campaign_id=campaign.id)
        self.state: PacingState | None = None
        self.auctions = 0

    def run(self, start: datetime, hours: float, traffic: Traffic) -> list[int]:
        """Run and return the spend on the local day after every five minutes."""
        line = []
        for step in range(int(hours * 12)):
            now = start + timedelta(minutes=5 * step)
            day = now.astimezone(zone(self.campaign.time_zone)).date().isoformat()
            if self.spend.day != day:
                self.spend = msgspec.structs.replace(self.spend, day=day, day_micros=0)
            self.state = next_state(self.state, self.campaign, self.spend, now)
            local = now.astimezone(zone(self.campaign.time_zone))
            today = open_intervals(self.campaign.time_zone, self.campaign.dayparts, local.date())
            is_open = overlap_s(today, now.timestamp(), now.timestamp() + 1) > 0
            for _ in range(round(traffic(step / 12) / 12) if is_open else 0):
                self.auction()
            line.append(self.spend.day_micros)
        return line

    def auction(self) -> None:
        assert self.state is not None
        self.auctions += 1
        daily, total = self.campaign.daily_budget_micros, self.campaign.total_budget_micros
        left = min(
            b - s for b, s in ((daily, self.spend.day_micros), (total, self.spend.total_micros)) if b is not None
        )
        taken = participates(str(self.auctions), self.campaign.id, self.state.participation)
        if left >= BID and taken and self.random.random() < self.clicks:
            total_now, today = self.spend.total_micros + BID, self.spend.day_micros + BID
            self.spend = msgspec.structs.replace(self.spend, total_micros=total_now, day_micros=today)


def furthest(line: list[int], budget: int, first: int = 0) -> float:
    """Return the largest distance from the even line as a share of the budget, after `first` steps."""
    return max(abs(spent / budget - (i + 1) / len(line)) for i, spent in enumerate(line) if i >= first)


@pytest.mark.parametrize("traffic", [steady, waves, jumps])
@pytest.mark.parametrize("scarcity", [3, 10])
def test_a_daily_budget_is_spent_evenly_under_any_traffic(traffic: Traffic, scarcity: int) -> None:
    """The traffic offers `scarcity` times more clicks than the budget pays for."""
    budget = 120 * BID
    possible = sum(traffic(i / 12) / 12 for i in range(288)) * 0.5
    scaled: Traffic = lambda hour: traffic(hour) * scarcity * 120 / possible  # noqa: E731
    world = World(change(CAMPAIGN, daily_budget_micros=budget), clicks=0.5)
    world.run(MIDNIGHT, 24, scaled)  # the first day's clicks estimate the traffic
    line = world.run(MIDNIGHT + timedelta(days=1), 24, scaled)
    assert line[-1] <= budget
    assert line[-1] >= 0.93 * budget
    assert furthest(line, budget) < 0.15


def test_without_pacing_the_same_budget_is_gone_by_noon() -> None:
    world = World(change(CAMPAIGN, daily_budget_micros=120 * BID, pacing=Pacing.ASAP), clicks=0.5)
    line = world.run(MIDNIGHT, 24, lambda hour: 60.0)
    assert line[100] == 120 * BID


def test_the_first_day_is_paced_as_well() -> None:
    world = World(change(CAMPAIGN, daily_budget_micros=120 * BID), clicks=0.5)
    line = world.run(MIDNIGHT, 24, lambda hour: 100.0)
    assert 110 * BID <= line[-1] <= 120 * BID
    assert furthest(line, 120 * BID) < 0.15


def test_a_campaign_takes_part_in_all_of_a_scarce_traffic() -> None:
    world = World(CAMPAIGN, clicks=0.5)
    world.run(MIDNIGHT, 24, lambda hour: 20.0)
    assert world.state is not None
    assert world.state.participation == 1.0


def test_pacing_follows_dayparts_and_clock_changes() -> None:
    """Berlin's 29 March 2026 has no hour from two to three: open 0-4 lasts three hours."""
    budget = 60 * BID
    campaign = change(
        CAMPAIGN,
        time_zone="Europe/Berlin",
        dayparts=(Daypart(days=(6,), from_hour=0, to_hour=4),),
        daily_budget_micros=budget,
        starts_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    world = World(campaign, clicks=0.5)
    line = world.run(datetime(2026, 3, 28, 23, tzinfo=UTC), 3, lambda hour: 300.0)
    assert 0.8 * budget <= line[-1] <= budget
    assert 0.35 * budget <= line[17] <= 0.7 * budget
    assert world.run(datetime(2026, 3, 29, 2, tzinfo=UTC), 5, lambda hour: 300.0)[-1] == line[-1]


def test_a_total_budget_alone_is_spread_over_the_flight() -> None:
    budget = 400 * BID
    campaign = change(
        CAMPAIGN,
        daily_budget_micros=None,
        total_budget_micros=budget,
        starts_at=MIDNIGHT,
        ends_at=MIDNIGHT + timedelta(days=4),
    )
    world = World(campaign, clicks=0.5)
    days = [world.run(MIDNIGHT + timedelta(days=d), 24, lambda hour: 60.0)[-1] for d in range(4)]
    assert sum(days) == world.spend.total_micros <= budget
    assert sum(days) >= 0.95 * budget
    assert all(0.2 * budget < day < 0.3 * budget for day in days)


def test_a_campaign_started_at_noon_does_not_make_up_for_the_morning() -> None:
    world = World(change(CAMPAIGN, daily_budget_micros=120 * BID, starts_at=MIDNIGHT + timedelta(hours=12)), clicks=0.5)
    line = world.run(MIDNIGHT + timedelta(hours=12), 12, lambda hour: 120.0)
    assert furthest(line, 120 * BID) < 0.17
    assert line[-1] >= 0.9 * 120 * BID


def test_a_campaign_that_cannot_be_paced_takes_part_in_every_auction() -> None:
    for campaign in (
        change(CAMPAIGN, pacing=Pacing.ASAP),
        change(CAMPAIGN, daily_budget_micros=None),
        change(CAMPAIGN, daily_budget_micros=None, total_budget_micros=10),
    ):
        assert next_state(None, campaign, None, MIDNIGHT).participation == 1.0


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90_000), st.integers(0, 40)), max_size=40),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(0, 100)),
    st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu"]),
    st.booleans(),
)
def test_participation_is_a_probability_for_any_ledger(
    updates: list[tuple[int, int]], daily: int | None, total: int | None, zone_name: str, ends: bool
) -> None:
    campaign = change(
        CAMPAIGN,
        time_zone=zone_name,
        daily_budget_micros=None if daily is None else daily * BID,
        total_budget_micros=None if total is None else total * BID,
        ends_at=MIDNIGHT + timedelta(days=3) if ends else None,
        dayparts=(Daypart(days=(0, 2, 4), from_hour=5, to_hour=9),),
    )
    state, now, spent = None, MIDNIGHT, 0
    for seconds, clicks in updates:
        now, spent = now + timedelta(seconds=seconds), spent + clicks * BID
        day = now.astimezone(zone(zone_name)).date().isoformat()
        state = next_state(
            state, campaign, Spend(campaign_id="C1", total_micros=spent, day=day, day_micros=clicks), now
        )
        assert 0 < state.participation <= 1


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-06-10", 24)])
def test_days_with_a_clock_change_have_23_or_25_hours(day: str, hours: int) -> None:
    found = open_intervals("Europe/Berlin", (), datetime.fromisoformat(day).date())
    assert len(found) == 1
    assert overlap_s(found, 0, math.inf) == hours * 3_600


def test_settings_out_of_range_are_named() -> None:
    for name, value in (("first", 0), ("lowest", 1.5), ("catch_up", -1), ("longest_s", math.nan)):
        with pytest.raises(ConfigError, match=f"pacing.{name}"):
            PacingSettings(**{name: value})


@given(st.text(max_size=40), st.lists(st.text(max_size=20), min_size=1, max_size=20), st.floats(0, 1))
def test_coins_are_the_same_one_by_one_and_all_at_once(auction: str, ids: list[str], share: float) -> None:
    keys = np.array([campaign_key(i) for i in ids], np.uint64)
    together = coins(auction, keys) < np.uint64(threshold(share))
    assert together.tolist() == [participates(auction, i, share) for i in ids]


def test_coins_are_fair() -> None:
    taken = [sum(participates(f"auction-{a}", f"campaign-{c}", 0.3) for a in range(200)) for c in range(50)]
    assert 0.28 < sum(taken) / 10_000 < 0.32
    assert max(taken) < 90  # 60 expected, standard deviation 6.5
    assert threshold(1) == WHOLE
    assert auction_seed("a") != campaign_key("a")
