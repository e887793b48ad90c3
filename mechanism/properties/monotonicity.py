"""Allocation monotonicity (Theorem 4.2): an ad's itctr_i never falls as its own bid rises, the other bids fixed.

It is measured by sweeping one ad's bid over a grid on the same queries, with paired resampling of the queries. An
allocation that ignores bids never falls either; it satisfies the theorem without being an auction, so a rise is asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.statistics import Interval, finite_array, percentile_interval, resampled_means


@dataclass(frozen=True, slots=True)
class Monotonicity:
    """Result of one bid sweep, in clicks per query.

    `means` has one interval per bid level, and `steps` one per neighbouring pair (level k+1 minus level k), each at the
    requested confidence. `lowest_step` is the step with the lowest mean (if negative, the largest fall), with an
    interval that is simultaneous over all steps; `lowest_at` are its two bids. `rise` is the last level less the first.
    `never_falls`: no step's simultaneous interval lies below zero (a flat curve fails with probability 1 - level at
    most). `never_falls_pointwise` is stricter: it tests each step by its own interval.
    """

    bids: tuple[float, ...]
    means: tuple[Interval, ...]
    steps: tuple[Interval, ...]
    lowest_step: Interval
    lowest_at: tuple[float, float]
    rise: Interval
    never_falls: bool
    never_falls_pointwise: bool

    @property
    def rises(self) -> bool:
        """Whether the interval of the rise lies above zero."""
        return self.rise.lo > 0

    @property
    def holds(self) -> bool:
        """Whether clicks rise with the bid and never fall."""
        return self.rises and self.never_falls

    @property
    def holds_pointwise(self) -> bool:
        """Whether it holds with each step tested by its own interval."""
        return self.rises and self.never_falls_pointwise

    @property
    def largest_fall(self) -> float:
        """Clicks per query lost over the worst step; 0 if no step falls."""
        return max(0.0, -self.lowest_step.mean)

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo and hi are those of the lowest step."""
        return {
            **self.lowest_step.to_dict(),
            "holds": self.holds,
            "rises": self.rises,
            "never_falls": self.never_falls,
            "holds_pointwise": self.holds_pointwise,
            "largest_fall": self.largest_fall,
            "lowest_at": list(self.lowest_at),
            "rise": self.rise.to_dict(),
            "bids": list(self.bids),
            "levels": [i.to_dict() for i in self.means],
            "steps": [i.to_dict() for i in self.steps],
        }


def monotonicity(
    clicks: ArrayLike, bids: Sequence[float], seed: int, level: float = 0.95, draws: int = 4000
) -> Monotonicity:
    """Test a bid sweep for a rise, and for falls on the way.

    `clicks[k, q]` (levels, queries) are the expected clicks (or propensity * ctr) of the swept ad at bid level k on
    query q; `bids` are the levels, strictly rising.

    Raises:
        InputError: if there are fewer than two levels, or levels out of order.
    """
    table = finite_array("clicks", clicks, 2)
    if len(bids) != len(table) or len(bids) < 2 or any(b <= a for a, b in itertools.pairwise(bids)):
        raise InputError(
            "bids", list(bids), f"give {max(2, len(table))} strictly rising bid levels, one per row of clicks"
        )
    means, resamples = table.mean(axis=1), resampled_means(table, seed, draws)
    steps, step_draws = np.diff(means), np.diff(resamples, axis=1)
    # Bonferroni over the steps, with two-sided intervals for one-sided falls: conservative.
    family = 1 - (1 - level) / len(steps)
    pointwise = [percentile_interval(float(s), step_draws[:, k], level) for k, s in enumerate(steps)]
    simultaneous = [percentile_interval(float(s), step_draws[:, k], family) for k, s in enumerate(steps)]
    # Equal levels differ by rounding; a fall must exceed what floating point can explain.
    slack = 1e-9 * max(1e-12, float(np.abs(table).max()))
    worst = int(steps.argmin())
    return Monotonicity(
        bids=tuple(float(b) for b in bids),
        means=tuple(percentile_interval(float(m), resamples[:, k], level) for k, m in enumerate(means)),
        steps=tuple(pointwise),
        lowest_step=simultaneous[worst],
        lowest_at=(float(bids[worst]), float(bids[worst + 1])),
        rise=percentile_interval(float(means[-1] - means[0]), resamples[:, -1] - resamples[:, 0], level),
        never_falls=all(s.hi >= -slack for s in simultaneous),
        never_falls_pointwise=all(s.hi >= -slack for s in pointwise),
    )
