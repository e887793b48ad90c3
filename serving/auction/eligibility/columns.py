"""The numbers of all campaigns as arrays, one entry per slot, and the rows of their creatives.

Slots and rows are reused after removal. The creatives of a campaign lie in one run of rows, so that the rows of the
eligible campaigns are listed without a loop. What the entries mean is decided in `serving.auction.eligibility.index`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.campaigns.dayparts import WEEK_HOURS

UNLIMITED = np.iinfo(np.int64).max
APPROVED, PENDING, REJECTED, CAPPED = range(4)
_FIRST_CAPACITY = 64
T = TypeVar("T", bound=np.generic)


def _flags() -> NDArray[np.bool_]:
    return np.zeros(_FIRST_CAPACITY, np.bool_)


def _numbers() -> NDArray[np.int64]:
    return np.zeros(_FIRST_CAPACITY, np.int64)


@dataclass(slots=True)
class Columns:
    """Arrays of shape (capacity,), `open_week` (capacity, 168). Times in micros since 1970, money in micros."""

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
    starts: NDArray[np.int64] = field(default_factory=_numbers)
    ends: NDArray[np.int64] = field(default_factory=_numbers)
    bids: NDArray[np.int64] = field(default_factory=_numbers)
    total_left: NDArray[np.int64] = field(default_factory=_numbers)
    daily_budget: NDArray[np.int64] = field(default_factory=_numbers)
    day_left: NDArray[np.int64] = field(default_factory=_numbers)
    spend_day: NDArray[np.int64] = field(default_factory=_numbers)
    spend_today: NDArray[np.int64] = field(default_factory=_numbers)
    currency: NDArray[np.int64] = field(default_factory=_numbers)
    zone: NDArray[np.int64] = field(default_factory=_numbers)
    first_row: NDArray[np.int64] = field(default_factory=_numbers)
    row_count: NDArray[np.int64] = field(default_factory=_numbers)
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_FIRST_CAPACITY, np.uint64))
    thresholds: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(_FIRST_CAPACITY, np.uint64))
    open_week: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((_FIRST_CAPACITY, WEEK_HOURS), np.bool_))

    def reserve(self, slots: int) -> None:
        """Makes room for that many slots, at least doubling."""
        if slots > len(self.used):
            for name in self.__dataclass_fields__:
                setattr(self, name, grown(getattr(self, name), slots))


def grown(array: NDArray[T], least: int) -> NDArray[T]:
    """The array with at least `least` entries along its first axis, at least doubled, the new ones zero."""
    larger = np.zeros((max(least, 2 * len(array)), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


class Runs:
    """Gives out runs of consecutive rows; a freed run is used again for another of its length."""

    def __init__(self) -> None:
        self.size = 0
        self._free: dict[int, list[int]] = {}

    def take(self, length: int) -> int:
        """The first row of a free run."""
        free = self._free.get(length)
        if free:
            return free.pop()
        first, self.size = self.size, self.size + length
        return first

    def give_back(self, first: int, length: int) -> None:
        """Frees a run."""
        if length:
            self._free.setdefault(length, []).append(first)
