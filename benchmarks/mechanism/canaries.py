"""Simulated canaries: many rollouts at once, minute by minute, as the routers would count them.

Most answers earn nothing and a few earn much: an ad is clicked once in twelve, at log-normal prices. Clicks come late
by an exponential delay; those within the click window count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.canary.cohorts import CLICK_WINDOW_S, MINUTE_S, Cohorts
from mechanism.canary.latency import LATENCY_S

Floats = NDArray[np.float64]

PRICE_SIGMA = 0.75
"""Standard deviation of the logarithm of a click's price; its mean does not matter."""
LATENCY_SIGMA = 0.4


@dataclass(frozen=True, slots=True)
class Version:
    """How a version answers: shares of failed answers, ads per answer, clicks per ad, median seconds."""

    failed: float = 0.004
    ads: float = 0.7
    click_rate: float = 0.08
    seconds: float = 1.5


def simulate(version: Version, per_second: Floats, canaries: int, delay_s: float, rng: np.random.Generator) -> Cohorts:
    """Return the cohorts of `canaries` rollouts, given the version's answers a second in each minute (minutes,)."""
    shape = (canaries, len(per_second))
    answers = rng.poisson(MINUTE_S * np.broadcast_to(per_second, shape))
    failed = rng.binomial(answers, version.failed)
    # two ads at most, independently: about as many as a Poisson count has
    shown = rng.binomial(2 * (answers - failed), version.ads / 2)
    in_time = 1.0 if delay_s == 0 else -math.expm1(-CLICK_WINDOW_S / delay_s)
    clicks = rng.binomial(shown, version.click_rate * in_time)
    prices = rng.lognormal(0.0, PRICE_SIGMA, int(clicks.sum()))
    cohort = np.repeat(np.arange(clicks.size), clicks.ravel())
    revenue, squares = (
        np.bincount(cohort, prices**power, clicks.size).reshape(shape).astype(np.float64) for power in (1, 2)
    )
    nothing = np.zeros(shape)
    return Cohorts(
        answers=answers.astype(np.float64),
        failed=failed.astype(np.float64),
        ad_free=nothing,
        shown=shown.astype(np.float64),
        clicks=clicks.astype(np.float64),
        priced=answers.astype(np.float64),
        revenue=revenue,
        revenue_squares=squares,
        penalty=nothing,
        penalty_squares=nothing,
        seconds=rng.multinomial(answers, _buckets(version.seconds)).astype(np.float64),
    )


def _buckets(median_s: float) -> Floats:
    """Return the probabilities of the latency buckets, of log-normal seconds."""
    below = [0.5 * math.erfc(-math.log(bound / median_s) / LATENCY_SIGMA / math.sqrt(2)) for bound in LATENCY_S]
    return np.diff([0.0, *below, 1.0])
