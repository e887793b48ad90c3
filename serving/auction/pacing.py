"""Budget pacing: the share of auctions a campaign takes part in, so that its budget lasts through the open hours.

Throttling, not bid shading: a first-price bid is not changed. From the spend in the ledger follows a probability of
taking part; in one auction a coin decides, tossed by hashing (auction id, campaign id), so that an auction can be
replayed. The ledger, not this module, keeps spend within budgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mechanism.errors import ConfigError
from mechanism.types import Micros
from serving.campaigns.dayparts import open_intervals, open_week, overlap_s, zone
from serving.campaigns.types import Campaign, Pacing, Spend

WHOLE = 1 << 53
"""Coins are integers in 0..WHOLE-1, as fine as a float's fraction."""
_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of the splitmix64 finaliser


@dataclass(frozen=True, slots=True)
class PacingSettings:
    """Parameters of pacing.

    `first` is the participation of a campaign without observations. Observations fade with a time constant of about
    `memory_clicks` paid clicks, within `shortest_s`..`longest_s` of open time. A deviation from the even line is
    corrected over `1 / catch_up` of the day's open time. `lowest` keeps a throttled campaign observable.

    Raises:
        ConfigError: if a parameter is out of range.
    """

    first: float = 0.25
    memory_clicks: float = 20.0
    shortest_s: float = 1_800.0
    longest_s: float = 86_400.0
    catch_up: float = 12.0
    lowest: float = 1e-4

    def __post_init__(self) -> None:
        for name in ("first", "lowest"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"pacing.{name}", getattr(self, name), "give a probability above 0")
        for name in ("memory_clicks", "shortest_s", "longest_s", "catch_up"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"pacing.{name}", value, "give a number above 0")


@dataclass(frozen=True, slots=True)
class PacingState:
    """The pacing state of one campaign.

    `spend` (micros) and `exposure` (open seconds times participation) fade together: their ratio is what the campaign
    would spend per second at full participation. The even line runs from (`anchor_s`, `anchor_spent`) on the local day
    `day` to `allowance` at the day's end.
    """

    participation: float
    at_s: float
    total_spent: Micros
    spend: float = 0.0
    exposure: float = 0.0
    day: str = ""
    allowance: Micros = 0
    anchor_s: float = 0.0
    anchor_spent: Micros = 0


@dataclass(frozen=True, slots=True)
class DayPlan:
    """The plan for one local day of a campaign.

    `allowance` is the most to spend on it, None without a budget that determines it. `planned` is the part to have
    spent by now, None if the campaign is not paced evenly or is closed all day.
    """

    allowance: Micros | None
    planned: Micros | None


def next_state(
    state: PacingState | None,
    campaign: Campaign,
    spend: Spend | None,
    now: datetime,
    settings: PacingSettings | None = None,
) -> PacingState:
    """Return the state after reading the ledger at `now`; its `participation` holds until the next call, in a minute.

    Campaigns that are not paced evenly, or whose budgets determine no daily allowance, take part in every auction.
    Several routers may do this on the same ledger: they read the same spend and compute the same probability.
    """
    settings = settings or PacingSettings()
    now_s = now.timestamp()
    total = spend.total_micros if spend else 0
    if campaign.pacing is not Pacing.EVEN:
        return PacingState(1.0, now_s, total)
    here = zone(campaign.time_zone)
    local_day = now.astimezone(here).date()
    day = local_day.isoformat()
    spent_today = spend.day_micros if spend and spend.day == day else 0
    intervals = _flight(campaign, open_intervals(campaign.time_zone, campaign.dayparts, local_day))
    allowance = _allowance(campaign, total, spent_today, overlap_s(intervals, now_s, math.inf), now)
    if allowance is None:
        return PacingState(1.0, now_s, total)
    if state is None:
        state = PacingState(settings.first, now_s, total)
    anchor_s, anchor_spent = state.anchor_s, state.anchor_spent
    # A changed budget starts a new line; the daily share of a total budget moves a little with every click.
    if state.day != day or abs(allowance - state.allowance) > max(allowance, state.allowance) // 20:
        anchor_s, anchor_spent = now_s, spent_today
    else:
        allowance = state.allowance if campaign.daily_budget_micros is None else allowance
    span = overlap_s(intervals, anchor_s, math.inf)
    if span <= 0:  # closed for the rest of the day
        return PacingState(
            state.participation, now_s, total, state.spend, state.exposure, day, allowance, anchor_s, anchor_spent
        )
    # Micros per open second: `even` keeps to the line, `wanted` returns to it, `possible` is full participation.
    even = max(0, allowance - anchor_spent) / span
    line = anchor_spent + even * overlap_s(intervals, anchor_s, now_s)
    wanted = max(0.0, even + (line - spent_today) * settings.catch_up / span)
    memory = settings.memory_clicks * campaign.bid_micros / max(even, 1e-9)
    memory = min(max(memory, settings.shortest_s), settings.longest_s)
    opened = overlap_s(intervals, state.at_s, now_s)
    fade = math.exp(-opened / memory)
    recent = state.spend * fade + max(0, total - state.total_spent)
    exposure = state.exposure * fade + state.participation * opened
    prior = 0.05 * settings.first * memory  # open seconds of exposure that `first` counts as
    possible = (recent + prior * even / settings.first) / (exposure + prior)
    share = wanted / possible if possible > 0 else 1.0
    participation = min(1.0, max(settings.lowest, share))
    return PacingState(participation, now_s, total, recent, exposure, day, allowance, anchor_s, anchor_spent)


def day_plan(campaign: Campaign, spend: Spend, now: datetime) -> DayPlan:
    """Return what the budgets allow on the campaign's local day and how much of it even pacing has spent by `now`.

    `spend` is that of the same local day. The plan follows from budgets and calendar alone and is the same on every
    router and at any time, while the line of `next_state` restarts when a budget changes.
    """
    local_day = now.astimezone(zone(campaign.time_zone)).date()
    intervals = _flight(campaign, open_intervals(campaign.time_zone, campaign.dayparts, local_day))
    whole = overlap_s(intervals, -math.inf, math.inf)
    # Without today's spend: the share of a total budget is computed from what was left when the day began.
    allowance = _allowance(campaign, spend.total_micros - spend.day_micros, 0, whole, now)
    if allowance is None or campaign.pacing is not Pacing.EVEN or whole <= 0:
        return DayPlan(allowance, None)
    return DayPlan(allowance, round(allowance * overlap_s(intervals, -math.inf, now.timestamp()) / whole))


def _flight(campaign: Campaign, intervals: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Clip open intervals to the campaign's flight, in whole seconds."""
    start = math.ceil(campaign.starts_at.timestamp())
    end = math.floor(campaign.ends_at.timestamp()) if campaign.ends_at else None
    clipped = ((max(a, start), b if end is None else min(b, end)) for a, b in intervals)
    return tuple((a, b) for a, b in clipped if a < b)


def _allowance(campaign: Campaign, total: Micros, today: Micros, open_left: float, now: datetime) -> Micros | None:
    """Return what may be spent on this local day, the day's earlier spend included, None without a limit.

    The daily budget, but at most an even share of what is left of the total budget until the flight ends.
    """
    shares = [] if campaign.daily_budget_micros is None else [campaign.daily_budget_micros]
    if campaign.total_budget_micros is not None:
        left = max(0, campaign.total_budget_micros - total)
        if campaign.ends_at is not None:
            tomorrow = now.astimezone(zone(campaign.time_zone)).date() + timedelta(days=1)
            midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=zone(campaign.time_zone))
            hours = open_week(campaign.dayparts)
            later = max(0.0, (campaign.ends_at - midnight.astimezone(UTC)).total_seconds()) * sum(hours) / len(hours)
            share = open_left / (open_left + later) if open_left + later > 0 else 1.0
            shares.append(today + math.ceil(left * share))
        elif shares:
            shares.append(today + left)
    return min(shares) if shares else None


def auction_seed(auction_id: str) -> int:
    """Hash an auction id to 64 bits."""
    return int.from_bytes(blake2b(auction_id.encode(), digest_size=8, person=b"pacing auction").digest(), "big")


def campaign_key(campaign_id: str) -> int:
    """Hash a campaign id to 64 bits."""
    return int.from_bytes(blake2b(campaign_id.encode(), digest_size=8, person=b"pacing campaign").digest(), "big")


def threshold(participation: float) -> int:
    """Convert a probability to the threshold that a campaign's coin must stay below to take part.

    Raises:
        ConfigError: if it is not within 0..1.
    """
    if not 0 <= participation <= 1:
        raise ConfigError("participation", participation, "give a probability from 0 to 1")
    return int(participation * WHOLE)


def participates(auction_id: str, campaign_id: str, participation: float) -> bool:
    """Return whether the campaign takes part in the auction: the same on every router and in every replay."""
    mixed = auction_seed(auction_id) ^ campaign_key(campaign_id)
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        mixed = ((mixed ^ (mixed >> shift)) * multiplier) & _MASK
    return (mixed ^ (mixed >> 31)) >> 11 < threshold(participation)


def coins(auction_id: str, keys_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Toss the coins of `participates` for many campaigns, given by `campaign_key`, shape (N,).

    A campaign takes part if its coin is below its threshold.
    """
    mixed = keys_N ^ np.uint64(auction_seed(auction_id))
    for shift, multiplier in zip((30, 27), _MULTIPLIERS, strict=True):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(multiplier)
    mixed ^= mixed >> np.uint64(31)
    mixed >>= np.uint64(11)
    return mixed
