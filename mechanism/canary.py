"""Statistics for whether a new version of a policy is worse than the stable one by more than chance.

One-sided bounds on counts, sums and samples; no I/O. Two callers compare versions with them: the guard behind a route
file (`serving.canary.guard`, single answers from the event log) and the operator's
(`operators.auctionservice.comparison`, counters of the routers). The callers choose figures, limits and consequences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from mechanism.statistics import wilson_bounds


@dataclass(frozen=True, slots=True)
class Bounds:
    """A lower and an upper bound, each one-sided, with the requested confidence."""

    lo: float
    hi: float


def share_bounds(events: float, trials: float, confidence: float) -> Bounds:
    """Return the bounds of a share `events / trials` (Wilson 1927); 0 and 1 without a trial."""
    if trials <= 0:
        return Bounds(0.0, 1.0)
    return Bounds(*wilson_bounds(events, trials, _z(confidence)))


def share_increase(
    new_events: float, new_trials: float, old_events: float, old_trials: float, confidence: float
) -> float:
    """Return the lower bound of the new share minus the old one (Newcombe 1998, method 10). Both trials are > 0."""
    new, old = new_events / new_trials, old_events / old_trials
    below_new = new - share_bounds(new_events, new_trials, confidence).lo
    above_old = share_bounds(old_events, old_trials, confidence).hi - old
    return new - old - math.hypot(below_new, above_old)


def ratio_bounds(
    new: float, old: float, new_events: int, old_events: int, confidence: float, dispersion: float = 1.0
) -> Bounds | None:
    """Return the bounds of `new / old`, two rates that rest on Poisson counts of events; None unless both are > 0.

    Normal approximation of the log ratio. `dispersion` is 1 + the squared coefficient of variation of one event's size:
    1 for plain counts, above 1 where events differ in size, as bids do.
    """
    if new <= 0 or old <= 0:
        return None
    error = math.sqrt(dispersion * (1 / (new_events + 0.5) + 1 / (old_events + 0.5)))
    ratio, factor = new / old, math.exp(_z(confidence) * error)
    return Bounds(ratio / factor, ratio * factor)


def mean_gain(new: ArrayLike, old: ArrayLike, confidence: float) -> float:
    """Return the upper bound of mean(new) - mean(old) of two samples (Welch 1947). Each has two values or more."""
    a, b = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    error = math.sqrt(float(a.var(ddof=1)) / len(a) + float(b.var(ddof=1)) / len(b))
    return float(a.mean() - b.mean()) + _z(confidence) * error


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(confidence)
