"""Which figures of two versions are compared, and by how much the new version is worse in each.

A version is worse in a figure if it is worse than the old one beyond chance, and by more than the limit as far as is
known. It is safe in a figure once twice the limit is excluded. Every function takes one canary, or many as leading
axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from mechanism.canary.cohorts import Cohorts, Evidence, Pair
from mechanism.canary.latency import Floats, quantile, slower
from mechanism.canary.limits import Limits
from mechanism.canary.sequential import Moments, difference

Flags = NDArray[np.bool_]

EARLY, LATE = 30.0, 1_000.0
"""Paired answers that bounds are tuned for: breakdowns show at once, sums of rare clicks need many answers."""
P95 = 0.95
EXCLUDED = 2.0
"""Multiple of the limit that must be excluded before a version is safe in a figure."""


class Figure(StrEnum):
    """What is compared."""

    FAILURE_RATE = "failure rate"
    FAILURES = "failures"
    LATENCY = "latency"
    AD_FREE = "answers without ads"
    AD_LOAD = "ads per answer"
    PENALTY = "penalty"
    REVENUE = "revenue"
    CLICK_RATE = "clicks per ad"


@dataclass(frozen=True, slots=True)
class Check:
    """By how much the new version is worse in a figure, (..., starts), in the unit of its limit.

    `harm` and its bounds are positive where it is worse; the version is worse if `lo` exceeds `bar` and `harm` the
    limit.
    """

    figure: Figure
    limit: float
    harm: Floats
    lo: Floats
    hi: Floats
    bar: float = 0.0

    @property
    def broken(self) -> Flags:
        """Whether the version is worse, by the cohort from which it is compared, (..., starts)."""
        return (self.lo > self.bar) & (self.harm > self.limit)

    @property
    def safe(self) -> Flags:
        """Whether twice the limit is excluded since the beginning, (...)."""
        return np.asarray(self.hi[..., 0] < EXCLUDED * self.limit)


def checks(evidence: Evidence, limits: Limits) -> list[Check]:
    """Check every figure that has a limit; the error probability is shared evenly among them."""
    early, ripe = evidence.early, evidence.ripe
    rules: list[tuple[float | None, Callable[[float, float], Check]]] = [
        (limits.max_failure_rate, lambda limit, alpha: _failure_rate(early.new, limit, alpha)),
        (limits.max_failure_rise, lambda limit, alpha: _rise(Figure.FAILURES, early, _failed, limit, alpha)),
        (limits.max_latency_ratio, lambda ratio, alpha: _latency(early, ratio, limits.fast_s, alpha)),
        (limits.max_ad_free_rise, lambda limit, alpha: _rise(Figure.AD_FREE, early, _ad_free, limit, alpha)),
        (limits.max_penalty_rise, lambda limit, alpha: _rise(Figure.PENALTY, early, _penalties, limit, alpha)),
        (limits.max_ad_load_rise, lambda limit, alpha: _ad_load(early, limit, alpha)),
        (limits.max_revenue_loss, lambda limit, alpha: _loss(Figure.REVENUE, ripe, _revenue, limit, alpha)),
        (limits.max_click_rate_loss, lambda limit, alpha: _loss(Figure.CLICK_RATE, ripe, _clicked, limit, alpha)),
    ]
    chosen = [(limit, rule) for limit, rule in rules if limit is not None]
    return [rule(limit, (1.0 - limits.confidence) / len(chosen)) for limit, rule in chosen]


Values = Callable[[Cohorts], Moments]


def _failed(cohorts: Cohorts) -> Moments:
    return Moments.share(cohorts.answers, cohorts.failed)


def _ad_free(cohorts: Cohorts) -> Moments:
    return Moments.share(cohorts.answers - cohorts.failed, cohorts.ad_free)


def _penalties(cohorts: Cohorts) -> Moments:
    return Moments(cohorts.answers, cohorts.penalty, cohorts.penalty_squares)


def _ads(cohorts: Cohorts) -> Moments:
    """Return ads per answer with the variance of a Poisson count; the few ads of an answer vary less."""
    return Moments(cohorts.answers, cohorts.shown, cohorts.shown + cohorts.shown**2 / np.maximum(cohorts.answers, 1.0))


def _revenue(cohorts: Cohorts) -> Moments:
    return Moments(cohorts.priced, cohorts.revenue, cohorts.revenue_squares)


def _clicked(cohorts: Cohorts) -> Moments:
    return Moments.share(cohorts.shown, cohorts.clicks)


def _failure_rate(new: Cohorts, limit: float, alpha: float) -> Check:
    """Compare with a fixed share, from the beginning alone: a general outage is not the new version's fault."""
    found = difference(_failed(new), Moments.known(limit, new.answers), alpha, EARLY, restarts=False)
    harm, lo, hi = (one + limit for one in (found.estimate, found.lo, found.hi))
    return Check(Figure.FAILURE_RATE, limit, harm, lo, hi, bar=limit)


def _latency(pair: Pair, ratio: float, fast_s: float, alpha: float) -> Check:
    """Compare the shares of answers that take longer than `ratio` times the old version's 95th percentile."""
    limit_s = np.maximum(fast_s, ratio * quantile(pair.old.seconds.sum(axis=-2), P95))

    def slow(cohorts: Cohorts) -> Moments:
        return Moments.share(cohorts.seconds.sum(axis=-1), slower(cohorts.seconds, limit_s))

    return _rise(Figure.LATENCY, pair, slow, 1.0 - P95, alpha)


def _rise(figure: Figure, pair: Pair, values: Values, limit: float, alpha: float) -> Check:
    """Check by how much a mean has risen."""
    found = difference(values(pair.new), values(pair.old), alpha, EARLY)
    return Check(figure, limit, found.estimate, found.lo, found.hi)


def _ad_load(pair: Pair, limit: float, alpha: float) -> Check:
    """Check by which share of the old mean the ads per answer have risen."""
    found = difference(_ads(pair.new), _ads(pair.old), alpha, EARLY)
    return Check(Figure.AD_LOAD, limit, *_relative(found.old, found.estimate, found.lo, found.hi))


def _loss(figure: Figure, pair: Pair, values: Values, limit: float, alpha: float) -> Check:
    """Check which share of the old mean is lost."""
    found = difference(values(pair.new), values(pair.old), alpha, LATE)
    return Check(figure, limit, *_relative(found.old, -found.estimate, -found.hi, -found.lo))


def _relative(base: Floats, harm: Floats, lo: Floats, hi: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the harm and its bounds as shares of a base; nothing is known where the base is 0."""
    known = base > 0
    divisor = np.where(known, base, 1.0)
    return (
        np.where(known, harm / divisor, 0.0),
        np.where(known, lo / divisor, -np.inf),
        np.where(known, hi / divisor, np.inf),
    )
