"""Cohorts: what is known of the answers that one version wrote in one minute.

A click belongs to the minute of its answer and counts if it comes within the click window, so that both versions are
compared at the same age: a cohort is ripe once that window has passed for its last answer. Who counts, and from what,
is left to the callers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mechanism.canary.latency import BUCKETS, Floats, bucket_of

MINUTE_S = 60
CLICK_WINDOW_S = 120.0
"""Seconds after an answer within which routers count its clicks."""


def minute_of(unix_s: float) -> int:
    """Return the number of the minute that holds a Unix time in seconds."""
    return int(unix_s // MINUTE_S)


@dataclass(slots=True)
class Tally:
    """Counts of one version's answers of one minute.

    `failed`: answers that were cut or not written; `ad_free`: the others without an ad; `shown`: ads; `clicks`: those
    within the click window. `priced` answers have their money in the currency that is counted; `revenue` (micros) is
    its sum, `revenue_squares` that of its squares by answer. `penalty` (points) is that of the insertions (Eq. 2, 8).
    `seconds`: answers by the index of their bucket (`mechanism.canary.latency`).
    """

    answers: int = 0
    failed: int = 0
    ad_free: int = 0
    shown: int = 0
    clicks: int = 0
    priced: int = 0
    revenue: float = 0.0
    revenue_squares: float = 0.0
    penalty: float = 0.0
    penalty_squares: float = 0.0
    seconds: dict[int, int] = field(default_factory=dict)

    def add_answer(self, *, failed: bool, shown: int, seconds: float, penalty: float, priced: bool) -> None:
        """Count an answer; its revenue comes by `add_revenue`."""
        self.answers += 1
        self.failed += failed
        self.ad_free += not failed and not shown
        self.shown += shown
        self.priced += priced
        self.penalty += penalty
        self.penalty_squares += penalty * penalty
        bucket = bucket_of(seconds)
        self.seconds[bucket] = self.seconds.get(bucket, 0) + 1

    def add_revenue(self, micros: float, before: float = 0.0) -> None:
        """Add revenue of an answer that had earned `before` micros, as far as that is known."""
        self.revenue += micros
        self.revenue_squares += (before + micros) ** 2 - before**2

    def merge(self, other: Tally) -> None:
        """Add the counts of another tally, of another router for example."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for bucket, count in other.seconds.items():
            self.seconds[bucket] = self.seconds.get(bucket, 0) + count

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tally:
        """Return the tally of `to_dict`, after JSON made the histogram's keys text; unknown names are ignored."""
        counts = {name: values.get(name, 0) for name in COUNTS}
        return cls(**counts, seconds={int(bucket): int(count) for bucket, count in values.get("seconds", {}).items()})


COUNTS = tuple(name for name in Tally.__dataclass_fields__ if name != "seconds")


def total(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies."""
    summed = Tally()
    for one in tallies:
        summed.merge(one)
    return summed


@dataclass(frozen=True, slots=True)
class Cohorts:
    """Tallies of one version as columns, (..., cohorts) each, in the order of time; leading axes are canaries.

    `seconds` has one more axis, the buckets.
    """

    answers: Floats
    failed: Floats
    ad_free: Floats
    shown: Floats
    clicks: Floats
    priced: Floats
    revenue: Floats
    revenue_squares: Floats
    penalty: Floats
    penalty_squares: Floats
    seconds: Floats

    @classmethod
    def of(cls, tallies: Iterable[Tally]) -> Cohorts:
        """Return tallies as columns."""
        rows = list(tallies)
        histogram = np.zeros((len(rows), BUCKETS))
        for row, one in enumerate(rows):
            for bucket, count in one.seconds.items():
                histogram[row, bucket] = count
        columns = {name: np.array([getattr(one, name) for one in rows], dtype=np.float64) for name in COUNTS}
        return cls(**columns, seconds=histogram)

    def first(self, count: int) -> Cohorts:
        """Return the first `count` cohorts."""
        columns = {name: getattr(self, name)[..., :count] for name in COUNTS}
        return Cohorts(**columns, seconds=self.seconds[..., :count, :])


@dataclass(frozen=True, slots=True)
class Pair:
    """The cohorts of the new and the old version, side by side: each compares answers of the same minute."""

    new: Cohorts
    old: Cohorts


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is compared: all cohorts (failures, latency, ads), and the ripe ones alone (whatever depends on clicks)."""

    early: Pair
    ripe: Pair


def evidence(
    new: Mapping[int, Tally], old: Mapping[int, Tally], now: float, window_s: float, *, concurrent: bool = True
) -> Evidence:
    """Pair the tallies of two versions, by minute, as they are at Unix time `now` with a click window of `window_s`.

    Without `concurrent` the versions never served at the same time: all minutes are one cohort, and drifts of the
    traffic between them count as differences of the versions.
    """
    both = sorted({*new, *old})
    ripe = [minute for minute in both if is_ripe(minute, now, window_s)]
    return Evidence(*(_pair(new, old, minutes, concurrent=concurrent) for minutes in (both, ripe)))


def _pair(new: Mapping[int, Tally], old: Mapping[int, Tally], minutes: list[int], *, concurrent: bool) -> Pair:
    sides = [[side.get(minute, Tally()) for minute in minutes] for side in (new, old)]
    if not concurrent or not minutes:
        sides = [[total(side)] for side in sides]
    return Pair(*(Cohorts.of(side) for side in sides))


def is_ripe(minute: int, now: float, window_s: float) -> bool:
    """Return whether the click window of the minute's last answer has passed."""
    return (minute + 1) * MINUTE_S + window_s <= now
