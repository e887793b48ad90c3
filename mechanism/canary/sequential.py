"""Intervals for the difference of two versions that hold at all times at once, so that every look is free.

The difference is taken within each cohort and averaged over the cohorts, so that neither the time of day nor a changed
share of the traffic counts as a difference. Its one-sided bounds are those of Robbins' normal mixture (Howard, Ramdas,
McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences") with estimated
variances (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas 2024, "Time-uniform central limit theory and asymptotic
confidence sequences"), and Bernstein's correction for values of which most are 0 and some are large.

A version that breaks late must not hide behind its good start, so a difference is looked for from every cohort on; the
i-th start (from 0) has the share 1/((i+1)(i+2)) of the error probability, which sums to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mechanism.canary.latency import Floats

CERTAIN = 1e12
"""Answers of a reference that is known and not measured."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Non-negative values of one version: their number, sum and sum of squares in each cohort, (..., cohorts)."""

    count: Floats
    total: Floats
    squares: Floats

    @classmethod
    def share(cls, count: Floats, events: Floats) -> Moments:
        """Return the moments of values 0 and 1, of which `events` are 1."""
        return cls(count, events, events)

    @classmethod
    def known(cls, share: float, like: Floats) -> Moments:
        """Return a share that is known, for every cohort of `like`."""
        return cls.share(np.full_like(like, CERTAIN), np.full_like(like, CERTAIN * share))


@dataclass(frozen=True, slots=True)
class Difference:
    """mean(new) - mean(old) with its bounds, by the cohort from which it is taken, (..., starts).

    `old` is the old version's mean with the same weights. Without an answer on both sides the bounds are infinite.
    """

    estimate: Floats
    lo: Floats
    hi: Floats
    old: Floats


def difference(new: Moments, old: Moments, alpha: float, tuned_for: float, *, restarts: bool = True) -> Difference:
    """Compare two versions; each bound is wrong at any time, from any start, with probability `alpha` at most.

    A pair of cohorts counts as n k / (n + k) paired answers; at some ten times `tuned_for` of them the bounds are
    tightest. Without `restarts` there is the first start alone.
    """
    usable = (new.count > 0) & (old.count > 0)
    n, k = np.where(usable, new.count, 1.0), np.where(usable, old.count, 1.0)
    weight = np.where(usable, n * k / (n + k), 0.0)  # inverse of the variance of a cohort's difference

    def since(column: Floats) -> Floats:
        sums = np.cumsum(np.where(usable, column, 0.0)[..., ::-1], axis=-1)[..., ::-1]
        return sums if restarts else sums[..., :1]

    paired = since(weight)
    mean_old = _ratio(since(weight * old.total / k), paired)
    estimate = _ratio(since(weight * new.total / n), paired) - mean_old
    sums = [[since(column) for column in (one.count, one.total, one.squares)] for one in (new, old)]
    pooled = [mine + other for mine, other in zip(*sums, strict=True)]
    variance = [np.maximum(_variance(*one), _variance(*pooled)) for one in sums]
    # an answer of either side weighs on average `share / paired` in the difference
    shares = [_ratio(since(weight * other / (n + k)), paired) for other in (k, n)]
    spread = shares[0] * variance[0] + shares[1] * variance[1]
    starts = np.arange(paired.shape[-1])
    log_term = np.log1p(np.sqrt(paired / tuned_for + 1.0) * (starts + 1) * (starts + 2) / (2.0 * alpha))
    radius = _ratio(np.sqrt(2.0 * spread * (paired + tuned_for) * log_term), paired)
    size = np.where(pooled[1] > 0, _ratio(pooled[2], pooled[1]), 1.0)
    # Sums of values >= 0 have short tails downwards: high new values mislead the lower bound, high old ones the upper.
    tails = [_ratio(size * log_term / 3.0 * share, paired) for share in shares]
    nothing = paired <= 0
    lo = np.where(nothing, -np.inf, estimate - radius - tails[0])
    hi = np.where(nothing, np.inf, estimate + radius + tails[1])
    return Difference(estimate, lo, hi, mean_old)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Return the quotient, 0 where the divisor is 0."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def _variance(count: Floats, total: Floats, squares: Floats) -> Floats:
    mean = _ratio(total, count)
    return np.maximum(_ratio(squares, count) - mean * mean, 0.0)
