"""Continuity (Theorem 4.3): an ad's allocation itctr_i is a continuous function of its bid, without steps.

It is measured on one query and one ad while its bid rises point by point. The test statistic is the largest jump
between neighbouring bids; it is compared with the largest jump that sampling error alone causes around a smooth curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, check_level, finite_array


@dataclass(frozen=True, slots=True)
class Continuity:
    """Result for one allocation curve.

    `jump` is the largest absolute difference between neighbouring bids, with its own normal interval; `at` are the two
    bids. `critical` is the `level` quantile of the largest jump of a smooth curve under the same sampling error, and
    `p_value` the probability that such a curve jumps at least as far as observed.
    `holds`: jump <= max(critical, tolerance).
    """

    bids: tuple[float, ...]
    curve: tuple[float, ...]
    jump: Interval
    at: tuple[float, float]
    critical: float
    p_value: float
    tolerance: float
    holds: bool

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo and hi are those of the largest jump."""
        return {
            **self.jump.to_dict(),
            "holds": self.holds,
            "at": list(self.at),
            "critical": self.critical,
            "p_value": self.p_value,
            "tolerance": self.tolerance,
            "bids": list(self.bids),
            "curve": list(self.curve),
        }


def curve_from_hits(hits: ArrayLike, answers: int) -> tuple[Floats, Floats]:
    """Return (means, standard errors), both (bids,), of shares from counts of `hits` (bids,) in `answers` per bid.

    The error adds two hits and two misses (Agresti and Coull), so that no or only hits do not claim certainty.

    Raises:
        InputError: if a count is not whole or not within 0..answers.
    """
    counts = finite_array("hits", hits, 1)
    if answers < 1 or counts.min() < 0 or counts.max() > answers or (counts != np.round(counts)).any():
        raise InputError("hits", f"of {answers} answers", "give whole counts between 0 and the number of answers")
    share = (counts + 2) / (answers + 4)
    return counts / answers, np.sqrt(share * (1 - share) / (answers + 4))


def curve_from_samples(samples: ArrayLike) -> tuple[Floats, Floats]:
    """Return (means, standard errors), both (bids,), of `samples` (bids, answers), such as propensity * ctr per answer.

    Raises:
        InputError: if there are fewer than two answers a bid.
    """
    table = finite_array("samples", samples, 2)
    if table.shape[1] < 2:
        raise InputError("samples", table.shape, "give at least two answers a bid, to estimate the sampling error")
    return table.mean(axis=1), table.std(axis=1, ddof=1) / np.sqrt(table.shape[1])


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


def continuity(
    means: ArrayLike,
    errors: ArrayLike,
    bids: Sequence[float],
    seed: int,
    *,
    level: float = 0.95,
    draws: int = 4000,
    window: int = 9,
    tolerance: float = 0.02,
) -> Continuity:
    """Test an allocation curve, `means` and standard `errors` (bids,) at equally spaced rising `bids`, for steps.

    The null distribution is the largest jump of curves with normal errors around a locally linear smoothing of the
    measured curve over `window` bids. A jump within `tolerance` counts as a slope, not a step. For exact curves
    (errors of zero) the tolerance alone decides: choose one above their steepest slope between neighbouring bids.

    Raises:
        InputError: if there are fewer than three bids, bids out of order, negative errors, or a parameter out of range.
    """
    curve, spread = finite_array("means", means, 1), finite_array("errors", errors, 1)
    check_level(level)
    grid = np.asarray(bids, dtype=np.float64)
    if len(grid) != len(curve) or len(grid) < 3 or (np.diff(grid) <= 0).any():
        raise InputError("bids", list(bids)[:5], f"give {max(3, len(curve))} rising bids, one per point of the curve")
    if spread.shape != curve.shape or spread.min() < 0:
        raise InputError("errors", spread.shape, "give one standard error >= 0 per point of the curve")
    if window < 3 or tolerance < 0 or draws < 1:
        raise InputError("window, tolerance, draws", (window, tolerance, draws), "give >= 3, >= 0 and >= 1")
    jumps = np.abs(np.diff(curve))
    k = int(jumps.argmax())
    largest = float(jumps[k])
    # Errors are pooled over the window too: a bid whose few answers happen to agree is not free of error.
    pooled = np.sqrt(np.maximum(0.0, _smooth(spread**2, window)))
    noise = np.random.default_rng(seed).normal(size=(draws, len(curve))) * pooled
    null = np.abs(np.diff(_smooth(curve, window) + noise, axis=1)).max(axis=1)
    critical = float(np.quantile(null, level, method="higher"))
    half = NormalDist().inv_cdf((1 + level) / 2) * float(np.hypot(spread[k], spread[k + 1]))
    return Continuity(
        bids=tuple(grid.tolist()),
        curve=tuple(curve.tolist()),
        jump=Interval(largest, max(0.0, largest - half), largest + half),
        at=(float(grid[k]), float(grid[k + 1])),
        critical=critical,
        p_value=float((1 + (null >= largest).sum()) / (1 + draws)),
        tolerance=tolerance,
        holds=largest <= max(critical, tolerance) + 1e-12,
    )
