"""The latency histogram of a cohort: its buckets, quantiles, and how many answers took longer than a limit."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LATENCY_S = tuple(0.005 * 1.2**step for step in range(56))
"""Upper bounds of the buckets in seconds, 20% apart from 5 ms to 113 s; one more bucket has none."""
BUCKETS = len(LATENCY_S) + 1
_LOWER = np.array((0.0, *LATENCY_S))
_UPPER = np.array((*LATENCY_S, np.inf))


def bucket_of(seconds: float) -> int:
    """Return the index of the bucket that holds an answer's seconds."""
    return bisect_left(LATENCY_S, seconds)


def quantile(histogram: Floats, q: float) -> Floats:
    """Return the q-quantiles (...) of histograms (..., BUCKETS), interpolated within a bucket; 0 without an answer.

    In the last bucket, which has no upper bound, it is the lower bound.
    """
    sums = np.cumsum(histogram, axis=-1)
    wanted = q * sums[..., -1:]
    place = np.expand_dims((sums < wanted).sum(axis=-1), -1)
    inside = np.take_along_axis(histogram, place, -1)[..., 0]
    before = np.take_along_axis(sums, place, -1)[..., 0] - inside
    lower, upper = _LOWER[place[..., 0]], _UPPER[place[..., 0]]
    share = np.divide(wanted[..., 0] - before, inside, out=np.zeros(inside.shape), where=inside > 0)
    width = np.where(np.isfinite(upper), upper - lower, 0.0)
    return np.where(sums[..., -1] > 0, lower + width * share, 0.0)


def slower(histogram: Floats, limit_s: Floats) -> Floats:
    """Return how many answers (..., cohorts) of (..., cohorts, BUCKETS) took longer than limits (...), interpolated."""
    limit = limit_s[..., None]
    share = np.clip((_UPPER[:-1] - limit) / (_UPPER[:-1] - _LOWER[:-1]), 0.0, 1.0)
    above = np.concatenate([share, np.where(limit <= _LOWER[-1], 1.0, 0.0)], axis=-1)
    return np.asarray((histogram * above[..., None, :]).sum(axis=-1))
