"""The numbers of all campaigns as arrays with one entry per slot.

A slot is the index's number for a campaign; it is reused after removal. Entries that depend on the local time are
brought up to date by `advance_clock`. Money is in micros, times in microseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mechanism.types import Micros
from serving.auction.pacing import WHOLE, campaign_key
from serving.campaigns.dayparts import QUARTER_S, WEEK_HOURS, open_week, week_hour, zone
from serving.campaigns.types import (
    Campaign,
    CampaignState,
    Priority,
    Spend,
    highest_adjusted_bid,
    lowest_adjusted_bid,
    normal,
)

UNLIMITED = np.iinfo(np.int64).max
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_CAPACITY = 64
T = TypeVar("T", bound=np.generic)


def grown(array: NDArray[T], least: int) -> NDArray[T]:
    """Copy an array into one with at least `least` entries along the first axis, at least doubled, the new ones 0."""
    larger = np.zeros((max(least, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def micros_since_epoch(time: datetime) -> int:
    """Return microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


class LocalClock:
    """The hour of the week and the date in every time zone in use, current to the quarter of an hour."""

    def __init__(self) -> None:
        self.hours_Z: list[int] = []
        self.days_Z: list[int] = []
        self._numbers: dict[str, int] = {}
        self._quarter: int | None = None

    @property
    def running(self) -> bool:
        """False until the first `advance` and after a zone was added: then `hours_Z` and `days_Z` are incomplete."""
        return self._quarter is not None

    def number(self, time_zone: str) -> int:
        """Return the index of a time zone in `hours_Z` and `days_Z`; a new zone stops the clock."""
        if time_zone not in self._numbers:
            self._numbers[time_zone] = len(self._numbers)
            self._quarter = None
        return self._numbers[time_zone]

    def advance(self, now: datetime) -> bool:
        """Set the clock to `now`; return whether it has entered another quarter of an hour."""
        quarter = int(now.timestamp() // QUARTER_S)
        if quarter == self._quarter:
            return False
        self._quarter = quarter
        locals_Z = [now.astimezone(zone(name)) for name in self._numbers]
        self.hours_Z = [week_hour(local) for local in locals_Z]
        self.days_Z = [local.toordinal() for local in locals_Z]
        return True


def _flags() -> NDArray[np.bool_]:
    return np.zeros(_FIRST_CAPACITY, np.bool_)


def _numbers() -> NDArray[np.int64]:
    return np.zeros(_FIRST_CAPACITY, np.int64)


@dataclass(slots=True)
class CampaignColumns:
    """Arrays of shape (capacity,), `open_week` of shape (capacity, 168).

    `any_*` are True where the campaign does not target the dimension, `house` for house ads. `account` is the number of
    the account that pays (`serving.auction.eligibility.funds`), `least_price` and `highest_price` bound the adjusted
    bid, which is at least 1 where it counts against money. `keys` and `thresholds` are those of
    `serving.auction.pacing.coins`; `throttled` is the number of slots in `is_throttled`, whose threshold is below 1.
    """

    used: NDArray[np.bool_] = field(default_factory=_flags)
    unpaused: NDArray[np.bool_] = field(default_factory=_flags)
    unended: NDArray[np.bool_] = field(default_factory=_flags)
    open_now: NDArray[np.bool_] = field(default_factory=_flags)
    with_creatives: NDArray[np.bool_] = field(default_factory=_flags)
    any_country: NDArray[np.bool_] = field(default_factory=_flags)
    any_language: NDArray[np.bool_] = field(default_factory=_flags)
    any_category: NDArray[np.bool_] = field(default_factory=_flags)
    any_placement: NDArray[np.bool_] = field(default_factory=_flags)
    any_keyword: NDArray[np.bool_] = field(default_factory=_flags)
    uncapped: NDArray[np.bool_] = field(default_factory=_flags)
    house: NDArray[np.bool_] = field(default_factory=_flags)
    starts: NDArray[np.int64] = field(default_factory=_numbers)
    ends: NDArray[np.int64] = field(default_factory=_numbers)
    bids: NDArray[np.int64] = field(default_factory=_numbers)
    least_price: NDArray[np.int64] = field(default_factory=_numbers)
    highest_price: NDArray[np.int64] = field(default_factory=_numbers)
    total_left: NDArray[np.int64] = field(default_factory=_numbers)
    daily_budget: NDArray[np.int64] = field(default_factory=_numbers)
    day_left: NDArray[np.int64] = field(default_factory=_numbers)
    spend_day: NDArray[np.int64] = field(default_factory=_numbers)
    spend_today: NDArray[np.int64] = field(default_factory=_numbers)
    accrued: NDArray[np.int64] = field(default_factory=_numbers)
    account: NDArray[np.int64] = field(default_factory=_numbers)
    currency: NDArray[np.int64] = field(default_factory=_numbers)
    zone: NDArray[np.int64] = field(default_factory=_numbers)
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_FIRST_CAPACITY, np.uint64))
    thresholds: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_FIRST_CAPACITY, np.uint64))
    is_throttled: NDArray[np.bool_] = field(default_factory=_flags)
    throttled: int = 0
    open_week: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((_FIRST_CAPACITY, WEEK_HOURS), np.bool_))
    _currencies: dict[str, int] = field(default_factory=dict)
    _clock: LocalClock = field(default_factory=LocalClock)

    def currency_number(self, currency: str) -> int:
        """Return the number of a currency in the column `currency`, -1 if no campaign bids in it."""
        return self._currencies.get(normal(currency), -1)

    def reserve(self, slot: int, campaign_id: str) -> None:
        """Make room for a slot and reset its participation to 1."""
        if slot >= len(self.used):
            for column in fields(self):
                if not column.name.startswith("_") and column.name != "throttled":
                    setattr(self, column.name, grown(getattr(self, column.name), slot + 1))
        self.keys[slot] = campaign_key(campaign_id)
        self.accrued[slot] = 0
        self.set_threshold(slot, WHOLE)

    def set_threshold(self, slot: int, threshold: int) -> None:
        """Set below which coin a campaign takes part in an auction."""
        self.thresholds[slot] = threshold
        self.throttled += (threshold < WHOLE) - int(self.is_throttled[slot])
        self.is_throttled[slot] = threshold < WHOLE

    def fill(self, slot: int, campaign: Campaign) -> None:
        """Write a campaign's own numbers into its slot; spend and participation are left alone."""
        target = campaign.targeting
        self.used[slot] = True
        self.unpaused[slot] = campaign.state is not CampaignState.PAUSED
        self.unended[slot] = campaign.state is not CampaignState.ENDED
        self.with_creatives[slot] = bool(campaign.creatives)
        self.any_country[slot], self.any_language[slot] = not target.countries, not target.languages
        self.any_category[slot], self.any_placement[slot] = not target.categories, not target.placements
        self.any_keyword[slot] = not target.keywords
        self.uncapped[slot] = not (campaign.campaign_caps or campaign.creative_caps)
        self.starts[slot] = micros_since_epoch(campaign.starts_at)
        self.ends[slot] = UNLIMITED if campaign.ends_at is None else micros_since_epoch(campaign.ends_at)
        self.bids[slot] = campaign.bid_micros
        self.least_price[slot] = max(lowest_adjusted_bid(campaign), 1)
        self.highest_price[slot] = max(highest_adjusted_bid(campaign), 1)
        self.currency[slot] = self._currencies.setdefault(normal(campaign.currency), len(self._currencies))
        self.house[slot] = campaign.priority is Priority.HOUSE
        self.zone[slot] = self._clock.number(campaign.time_zone)
        self.open_week[slot] = open_week(campaign.dayparts)
        if self._clock.running:
            self.open_now[slot] = self.open_week[slot, self._clock.hours_Z[int(self.zone[slot])]]

    def fill_spend(self, slot: int, campaign: Campaign, spend: Spend | None) -> None:
        """Write the rest of a campaign's budgets into its slot."""
        self.total_left[slot] = _left(campaign.total_budget_micros, spend.total_micros if spend else 0)
        self.daily_budget[slot] = _left(campaign.daily_budget_micros, 0)
        self.spend_day[slot] = date.fromisoformat(spend.day).toordinal() if spend and spend.day else 0
        self.spend_today[slot] = spend.day_micros if spend else 0
        if self._clock.running:
            today = int(self.spend_day[slot]) == self._clock.days_Z[int(self.zone[slot])]
            self.day_left[slot] = _left(campaign.daily_budget_micros, int(self.spend_today[slot]) if today else 0)

    def advance_clock(self, now: datetime, size: int) -> bool:
        """Bring `open_now` and `day_left` of the first `size` slots up to date; return whether that changed them.

        Cheap within a quarter of an hour.
        """
        if not self._clock.advance(now) or not size:
            return False
        zones_C = self.zone[:size]
        self.open_now[:size] = self.open_week[np.arange(size), np.array(self._clock.hours_Z)[zones_C]]
        today_C = self.spend_day[:size] == np.array(self._clock.days_Z)[zones_C]
        left_C = self.daily_budget[:size] - np.where(today_C, self.spend_today[:size], 0)
        self.day_left[:size] = np.where(self.daily_budget[:size] == UNLIMITED, UNLIMITED, left_C)
        return True


def _left(budget: Micros | None, spent: Micros) -> int:
    return UNLIMITED if budget is None else min(budget - spent, UNLIMITED)
