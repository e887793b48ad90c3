"""Continuity (Theorem 4.3): an ad's allocation itctr_i is a continuous function of its bid, without steps.

It is measured on the ads that compete, while the bid of one rises point by point and everything else stays. Three
things are asked, because each alone is easily satisfied: the curves rise at all; no single curve has a jump beyond its
sampling error; and over all curves no single step of the grid holds most of the rise, which finds steps that are too
small or too noisy to be seen on one curve, wherever on each curve they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, bootstrap_interval, check_level, finite_array, ratio_interval

Finding = Literal["continuous", "vacuous", "jump", "concentrated"]


@dataclass(frozen=True, slots=True)
class LargestJump:
    """The largest absolute difference between neighbouring bids of one curve, with its normal interval at `level`.

    `at` are the two bids. `critical` is the `level` quantile of the largest jump of a smooth curve under the same
    sampling error, and `p_value` the probability that such a curve jumps at least as far as observed.
    """

    jump: Interval
    at: tuple[float, float]
    critical: float
    p_value: float

    def is_step(self, tolerance: float) -> bool:
        """Whether it exceeds `tolerance` beyond its sampling error, and what a smooth curve does by chance."""
        return self.jump.lo > tolerance and self.jump.mean > self.critical


@dataclass(frozen=True, slots=True)
class Continuity:
    """Result over the curves of many queries.

    `rise` is the clicks per auction that the highest bid gains over the lowest, and `rising` the share of curves
    whose own rise exceeds its sampling error. `jumps` counts the curves that jump beyond `tolerance` and beyond what a
    smooth curve does by chance, jointly over all curves. `concentration` is the mean jump at each curve's steepest
    pair of neighbouring bids as a share of the mean rise: the pair is chosen by one half of the answers and measured
    by the other, so that noise does not count. It is near 1 for steps, wherever they are.

    `worst` is the curve with the least probable jump: its query, its ad within the query, `bids`, `curve`, `error`.
    """

    queries: int
    curves: int
    rise: Interval
    rising: float
    jumps: int
    tolerance: float
    concentration: Interval
    most_concentrated: float
    worst: LargestJump
    worst_at: tuple[int, int]
    bids: tuple[float, ...]
    curve: tuple[float, ...]
    error: tuple[float, ...]

    @property
    def finding(self) -> Finding:
        """The first of the three that fails: a rise, no jump of one curve, no concentration over all."""
        if self.rise.lo <= 0:
            return "vacuous"
        if self.jumps:
            return "jump"
        return "concentrated" if self.concentration.hi > self.most_concentrated else "continuous"

    @property
    def holds(self) -> bool:
        """Whether the curves rise, and without steps."""
        return self.finding == "continuous"

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo, hi, at, critical and p_value are those of the worst curve's largest jump."""
        return {
            **self.worst.jump.to_dict(),
            "holds": self.holds,
            "finding": self.finding,
            "at": list(self.worst.at),
            "critical": self.worst.critical,
            "p_value": self.worst.p_value,
            "tolerance": self.tolerance,
            "queries": self.queries,
            "curves": self.curves,
            "rise": self.rise.to_dict(),
            "rising": self.rising,
            "jumps": self.jumps,
            "concentration": self.concentration.to_dict(),
            "most_concentrated": self.most_concentrated,
            "worst_at": list(self.worst_at),
            "bids": list(self.bids),
            "curve": list(self.curve),
            "error": list(self.error),
        }


def continuity(
    clicks: ArrayLike,
    bids: Sequence[float],
    seed: int,
    *,
    level: float = 0.95,
    draws: int = 4000,
    tolerance: float = 0.15,
    most_concentrated: float = 1 / 3,
) -> Continuity:
    """Test allocation curves for a rise without steps.

    `clicks` (queries, ads, bids, answers) are the clicks per answer of the swept ad, in expectation over the reader:
    propensity * ctr, or ctr where the answer shows it. Several ads of one query are not independent: intervals are over
    the queries. `bids` rise in about equal steps.

    Raises:
        InputError: if the shapes do not match, there are fewer than three bids or two answers, bids out of order, or a
            parameter out of range.
    """
    samples, grid = finite_array("clicks", clicks, 4), finite_array("bids", bids, 1)
    check_level(level)
    queries, ads, levels, answers = samples.shape
    if len(grid) != levels or levels < 3 or (np.diff(grid) <= 0).any():
        raise InputError("bids", grid.tolist()[:5], f"give {max(3, levels)} rising bids, one per point of the curves")
    if answers < 2:
        raise InputError("answers", answers, "give at least two answers a bid, to estimate the sampling error")
    if tolerance < 0 or draws < 1 or not 0 < most_concentrated <= 1:
        raise InputError(
            "tolerance, draws, most_concentrated", (tolerance, draws, most_concentrated), "give >= 0, >= 1, 0..1"
        )
    means, errors = samples.mean(axis=3), samples.std(axis=3, ddof=1) / np.sqrt(answers)
    joint = 1 - (1 - level) / (queries * ads)  # Bonferroni over the curves
    found = {
        (q, a): largest_jump(means[q, a], errors[q, a], grid, seed + q * ads + a, level=joint, draws=draws)
        for q in range(queries)
        for a in range(ads)
    }
    where = min(found, key=lambda key: (found[key].p_value, -found[key].jump.mean))
    rises = means[..., -1] - means[..., 0]
    noise = NormalDist().inv_cdf(level) * np.hypot(errors[..., -1], errors[..., 0])
    rise = bootstrap_interval(rises.mean(axis=1), seed, level)
    return Continuity(
        queries=queries,
        curves=queries * ads,
        rise=rise,
        rising=float((rises > noise).mean()),
        jumps=sum(f.is_step(tolerance) for f in found.values()),
        tolerance=tolerance,
        concentration=(
            ratio_interval(_steepest(samples).mean(axis=1), rises.mean(axis=1), seed, level)
            if rise.mean > 0
            else Interval(np.inf, np.inf, np.inf)
        ),
        most_concentrated=most_concentrated,
        worst=found[where],
        worst_at=where,
        bids=tuple(grid.tolist()),
        curve=tuple(means[where].tolist()),
        error=tuple(errors[where].tolist()),
    )


def largest_jump(
    means: Floats, errors: Floats, bids: Floats, seed: int, *, level: float, draws: int, window: int = 5
) -> LargestJump:
    """Compare one curve's largest jump with those that sampling error alone causes around a smooth curve.

    `means` and standard `errors` are (bids,). The null distribution is the largest jump of curves with normal errors
    around a locally linear smoothing of the measured curve over `window` bids.
    """
    jumps = np.abs(np.diff(means))
    k = int(jumps.argmax())
    largest = float(jumps[k])
    # Errors are pooled over the window too: a bid whose few answers happen to agree is not free of error.
    pooled = np.sqrt(np.maximum(0.0, _smooth(errors**2, window)))
    # The smallest p-value that the draws can show must be able to pass the joint level.
    number = max(draws, int(np.ceil(2 / (1 - level))))
    noise = np.random.default_rng(seed).normal(size=(number, len(means))) * pooled
    null = np.abs(np.diff(_smooth(means, window) + noise, axis=1)).max(axis=1)
    half = NormalDist().inv_cdf((1 + level) / 2) * float(np.hypot(pooled[k], pooled[k + 1]))
    return LargestJump(
        jump=Interval(largest, max(0.0, largest - half), largest + half),
        at=(float(bids[k]), float(bids[k + 1])),
        critical=float(np.quantile(null, level, method="higher")),
        p_value=float((1 + (null >= largest).sum()) / (1 + number)),
    )


def _steepest(samples: Floats) -> Floats:
    """Return the jump (queries, ads) at the steepest pair of neighbouring bids.

    One half of the answers chooses the pair and its direction, the other measures it, then the other way about.
    """
    halves = [np.diff(samples[..., part::2].mean(axis=3), axis=2) for part in (0, 1)]
    measured = []
    for chooses, measures in (halves, halves[::-1]):
        at = np.abs(chooses).argmax(axis=2)[..., None]
        sign = np.sign(np.take_along_axis(chooses, at, axis=2))
        measured.append((sign * np.take_along_axis(measures, at, axis=2))[..., 0])
    return np.asarray(np.mean(measured, axis=0))


def _smooth(values: Floats, window: int) -> Floats:
    """Fit a line over the `window` nearest bids, shifted inwards at the ends: it keeps a slope and spreads a step."""
    n, smooth = len(values), np.empty_like(values)
    size = min(window, n)
    x = np.arange(size) - (size - 1) / 2
    for k in range(n):
        start = min(max(0, k - size // 2), n - size)
        part = values[start : start + size]
        slope = float(x @ part) / float(x @ x)
        smooth[k] = part.mean() + slope * (k - start - (size - 1) / 2)
    return smooth
