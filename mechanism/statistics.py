"""Confidence intervals: percentile bootstrap over queries, and the Wilson interval for proportions of rare events.

The unit of resampling is always the query (a column of a paired table), because answers to one query are not
independent. Callers decide what a figure means and when it is good enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mechanism.errors import InputError

Floats = NDArray[np.float64]

# Resamples are drawn in blocks of about this many indices: a few tens of megabytes for any number of queries.
_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its confidence interval, lo <= mean <= hi; see `ratio_interval` for infinite ends."""

    mean: float
    lo: float
    hi: float

    def to_dict(self) -> dict[str, float | None]:
        """Return `{mean, lo, hi}` for JSON; an unbounded end becomes None."""
        return {name: v if math.isfinite(v) else None for name, v in zip(("mean", "lo", "hi"), self.ends, strict=True)}

    @property
    def ends(self) -> tuple[float, float, float]:
        """The triple (mean, lo, hi)."""
        return self.mean, self.lo, self.hi


def finite_array(place: str, values: ArrayLike, ndim: int) -> Floats:
    """Return `values` as a float array of `ndim` dimensions.

    Raises:
        InputError: if the input is empty, has another shape, or holds a value that is not finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(place, type(values).__name__, f"give a {ndim}-dimensional array of numbers") from None
    if array.ndim != ndim:
        raise InputError(place, array.shape, f"give an array of {ndim} dimension(s)")
    if array.size == 0:
        raise InputError(place, array.shape, "give at least one measurement")
    if not np.isfinite(array).all():
        raise InputError(place, "nan or infinity", "find the measurement that failed; every value must be finite")
    return array


def check_level(level: float) -> None:
    """Check a confidence level.

    Raises:
        InputError: unless 0 < level < 1.
    """
    if not 0.0 < level < 1.0:
        raise InputError("level", level, "give a confidence level between 0 and 1, such as 0.95")


def resampled_means(values: Floats, seed: int, draws: int) -> Floats:
    """Return means (draws, rows) of `values` (rows, queries) under resamples of the queries, the same for every row.

    Raises:
        InputError: if `draws` is below 1.
    """
    if draws < 1:
        raise InputError("draws", draws, "give at least one resample")
    n = values.shape[1]
    rng = np.random.default_rng(seed)
    means = np.empty((draws, values.shape[0]))
    block = max(1, _BLOCK // n)
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        index = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(index.ravel(), minlength=rows * n).reshape(rows, n)
        means[start : start + rows] = counts @ values.T / n
    return means


def percentile_interval(mean: float, draws: Floats, level: float) -> Interval:
    """Return the central `level` of `draws` (draws,) as the interval around `mean`.

    Its ends are order statistics, rounded outwards: an infinite draw stays infinite, and the interval holds at least
    the share `level` of the draws.
    """
    check_level(level)
    ordered = np.sort(draws)
    last = len(ordered) - 1
    lo = float(ordered[math.floor((1 - level) / 2 * last)])
    hi = float(ordered[math.ceil((1 + level) / 2 * last)])
    return Interval(mean, min(lo, mean), max(hi, mean))


def bootstrap_interval(values: ArrayLike, seed: int, level: float = 0.95, draws: int = 1000) -> Interval:
    """Return the mean of per-query `values` (queries,) with its percentile bootstrap interval.

    The same seed gives the same interval; a single value gives one of width zero. Empty or non-finite input is an
    InputError.
    """
    array = finite_array("values", values, 1)
    return percentile_interval(float(array.mean()), resampled_means(array[None, :], seed, draws)[:, 0], level)


def _pair(left_name: str, left: ArrayLike, right_name: str, right: ArrayLike) -> Floats:
    a, b = finite_array(left_name, left, 1), finite_array(right_name, right, 1)
    if a.shape != b.shape:
        raise InputError(f"{left_name} and {right_name}", (len(a), len(b)), "give both for the same queries, in order")
    return np.stack([a, b])


def ratio_interval(
    numerator: ArrayLike, denominator: ArrayLike, seed: int, level: float = 0.95, draws: int = 1000
) -> Interval:
    """Return mean(numerator) / mean(denominator) of two methods on the same queries (queries,), resampled jointly.

    A resample whose denominator is not positive counts as infinite with the numerator's sign, so a denominator that is
    not significantly above zero leaves that end of the interval unbounded.

    Raises:
        InputError: if the denominator's mean is not positive, where a ratio has no meaning: use `difference_interval`.
    """
    table = _pair("numerator", numerator, "denominator", denominator)
    top, bottom = table.mean(axis=1)
    if bottom <= 0:
        raise InputError("denominator", float(bottom), "a ratio needs a positive mean; compare by difference instead")
    means = resampled_means(table, seed, draws)
    usable = means[:, 1] > 0
    unbounded = np.where(means[:, 0] < 0, -np.inf, np.inf)
    ratios = np.divide(means[:, 0], means[:, 1], out=unbounded, where=usable)
    return percentile_interval(float(top / bottom), ratios, level)


def difference_interval(
    left: ArrayLike, right: ArrayLike, seed: int, level: float = 0.95, draws: int = 1000
) -> Interval:
    """Return mean(left - right) of two methods on the same queries (queries,), resampled jointly."""
    table = _pair("left", left, "right", right)
    return bootstrap_interval(table[0] - table[1], seed, level, draws)


def proportion_interval(events: int, trials: int, level: float = 0.95) -> Interval:
    """Return the share of `trials` in which an event happened, with Wilson's score interval.

    It is informative even at 0 events, where a bootstrap would claim certainty.

    Raises:
        InputError: unless 0 <= events <= trials and trials >= 1.
    """
    check_level(level)
    if trials < 1 or not 0 <= events <= trials:
        raise InputError("events of trials", (events, trials), "give 0 <= events <= trials and at least one trial")
    lo, hi = wilson_bounds(events, trials, NormalDist().inv_cdf((1 + level) / 2))
    share = events / trials
    return Interval(share, min(share, lo), max(share, hi))


def wilson_bounds(events: float, trials: float, z: float) -> tuple[float, float]:
    """Return the lower and upper bound of Wilson's interval of `events / trials` for a normal quantile `z`.

    Source: Wilson 1927. `trials` > 0.
    """
    share = events / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the ends the bound is exact; the formula leaves a rounding error there.
    low = 0.0 if events == 0 else max(0.0, centre - half)
    high = 1.0 if events == trials else min(1.0, centre + half)
    return low, high
