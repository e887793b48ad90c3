"""Clicks that have not come yet: how late clicks are, estimated from the log, and how many of an answer's can be there.

An answer watched for e seconds shows only the clicks whose delay is at most e, so that a click is seen with
probability F(e), F being the delays' distribution. Following Chapelle 2014 ("Modeling delayed feedback in display
advertising") a click is then observed with p * F(e) and not with p; in place of his exponential delays F is the
product-limit estimate for right-truncated data (Lynden-Bell 1971; Woodroofe 1985), since a delay is known at all only
if it was not longer than its answer had been watched. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mechanism.errors import InputError
from mechanism.statistics import Floats, finite_array

MIN_CLICKS = 20
"""Of fewer clicks no distribution is made out: every click counts as seen."""


@dataclass(frozen=True, slots=True)
class DelayDistribution:
    """F at its jumps, seconds and shares, both rising; empty: nothing is known, and F is 1 everywhere.

    F(longest watch) is 1: clicks that would take longer than any answer has been watched do not exist for it.
    """

    delays_K: Floats
    shares_K: Floats

    def seen(self, watched_s: ArrayLike) -> Floats:
        """F(e): the share of an answer's clicks that can be there after `watched_s` seconds, in that shape."""
        watched = np.asarray(watched_s, dtype=np.float64)
        if not len(self.delays_K):
            return np.ones_like(watched)
        rank = np.searchsorted(self.delays_K, watched, side="right")
        return np.concatenate([[0.0], self.shares_K])[rank]


NO_DELAY = DelayDistribution(np.zeros(0), np.zeros(0))


def estimate_delays(delays_s: ArrayLike, watched_s: ArrayLike) -> DelayDistribution:
    """F from observed clicks: their delays and for how long their answers had been watched, both of shape (clicks,).

    F(t) is the product, over the observed delays s > t, of 1 - d(s) / R(s): d(s) clicks came at s, and R(s) counts
    those with delay <= s <= watch, which are the ones that could have come at s and been seen. Raises InputError for
    delays below 0 or longer than their watch.
    """
    if not np.size(delays_s):
        return NO_DELAY
    delays, watched = finite_array("delays", delays_s, 1), finite_array("watched", watched_s, 1)
    if delays.shape != watched.shape:
        raise InputError("watched", len(watched), f"give one for each of {len(delays)} delays")
    if (delays < 0).any() or (delays > watched).any():
        raise InputError("delays", float(delays.min()), "a delay lies between 0 and the time its answer was watched")
    if len(delays) < MIN_CLICKS:
        return NO_DELAY
    jumps, came = np.unique(delays, return_counts=True)
    begun = np.searchsorted(np.sort(delays), jumps, side="right")
    left = np.searchsorted(np.sort(watched), jumps, side="left")
    at_risk = begun - left
    kept = 1.0 - came / at_risk
    # from the longest delay down: F just below a jump is F at it times what the jump leaves
    above = np.concatenate([np.cumprod(kept[::-1])[::-1][1:], [1.0]])
    return DelayDistribution(jumps, _without_early_zero(above, came))


def _without_early_zero(shares: Floats, came: NDArray[np.int64]) -> Floats:
    """Where at some early delay nobody else was at risk, the product is 0 from there down, and with it the chance of
    clicks that did come: the plain shares of what came stand in below it, scaled to meet the estimate."""
    positive = np.flatnonzero(shares > 0)
    first = int(positive[0])
    if first == 0:
        return shares
    plain = np.cumsum(came) / came.sum()
    return np.concatenate([plain[:first] / plain[first] * shares[first], shares[first:]])
