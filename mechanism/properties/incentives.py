"""Incentive compatibility for value maximisers (Theorem 4.5): bidding v / tau is optimal under first price.

A value maximiser maximises v * itctr(b) subject to the return constraint v * itctr(b) >= tau * b * itctr(b), which is
b <= v / tau wherever it gets any clicks. So b = v / tau is optimal if and only if no lower bid gets more clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, bootstrap_interval, finite_array, ratio_interval


@dataclass(frozen=True, slots=True)
class ValueMaximiserIC:
    """Regret of bidding v / tau against the best feasible bid of the grid, over (query, ad) pairs.

    `regret` is in value per auction (the unit of v), `relative` in shares of the value that bidding v / tau obtains
    (unbounded if that is zero). `deviating` is the share of pairs in which another bid is better by more than rounding.
    `obtained` is the value per auction at bid v / tau.
    `holds`: the upper end of `relative` is within `tolerance`, and something was obtained: a bidder that never gets a
    click regrets nothing whatever it bids.
    """

    pairs: int
    obtained: Interval
    regret: Interval
    relative: Interval
    deviating: float
    tolerance: float
    holds: bool

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo and hi are those of the relative regret."""
        return {
            **self.relative.to_dict(),
            "holds": self.holds,
            "obtained": self.obtained.to_dict(),
            "regret": self.regret.to_dict(),
            "deviating": self.deviating,
            "tolerance": self.tolerance,
            "pairs": self.pairs,
        }


@dataclass(frozen=True, slots=True)
class ValueMaximiserTargets:
    """Incentive compatibility for advertisers with different return targets tau, each measured on the same pairs.

    `by_target` holds (tau, result), tau rising. It holds if it holds for every target.
    """

    by_target: tuple[tuple[float, ValueMaximiserIC], ...]

    @property
    def worst(self) -> ValueMaximiserIC:
        """The result of the target with the highest upper end of the relative regret."""
        return max((result for _, result in self.by_target), key=lambda r: (not r.holds, r.relative.hi))

    @property
    def holds(self) -> bool:
        """Whether bidding v / tau is optimal for every target."""
        return all(result.holds for _, result in self.by_target)

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object: the figures of the worst target, and those of each in `by_target`."""
        each = [{"tau": tau, **result.to_dict()} for tau, result in self.by_target]
        return {**self.worst.to_dict(), "holds": self.holds, "by_target": each}


def _at(curves: Floats, grid: Floats, bids: Floats) -> Floats:
    """Interpolate itctr (pairs, grid) at each pair's own bid (pairs,), linearly between the bids of the grid."""
    return np.array([np.interp(b, grid, curve) for b, curve in zip(bids, curves, strict=True)])


def value_maximiser_ic(
    curves: ArrayLike,
    grid: ArrayLike,
    values: ArrayLike,
    taus: ArrayLike,
    seed: int,
    *,
    level: float = 0.95,
    draws: int = 2000,
    tolerance: float = 0.05,
    holdout: ArrayLike | None = None,
) -> ValueMaximiserIC:
    """Measure the regret of bidding b = v / tau.

    `curves[p, k]` (pairs, grid) is itctr of pair p at bid `grid[k]`; the grid rises, in the unit of `values`. `values`
    and `taus` (pairs,) are positive, and every v / tau lies within the grid.

    The best of many noisy estimates is biased upwards. With a `holdout` (pairs, grid), a second independent estimate of
    the same curves, the deviation is chosen on `curves` and its gain is read from `holdout`, which removes the bias
    (single regrets may then be negative). Without it the regret is an upper bound.

    Raises:
        InputError: if shapes do not match, a value is out of range, or v / tau lies outside of the grid.
    """
    table, levels = finite_array("curves", curves, 2), finite_array("grid", grid, 1)
    v, tau = finite_array("values", values, 1), finite_array("taus", taus, 1)
    if table.shape != (len(v), len(levels)) or tau.shape != v.shape or (np.diff(levels) <= 0).any():
        shapes = (table.shape, levels.shape, v.shape, tau.shape)
        raise InputError(
            "curves, grid, values, taus", shapes, "give (pairs, grid), a rising grid, (pairs,) and (pairs,)"
        )
    if v.min() <= 0 or tau.min() <= 0 or table.min() < 0:
        raise InputError("curves, values, taus", "a negative or zero entry", "itctr is >= 0, values and taus are > 0")
    bid = v / tau
    outside = (bid < levels[0] * (1 - 1e-12)) | (bid > levels[-1] * (1 + 1e-12))
    if outside.any():
        raise InputError("grid", float(bid[outside][0]), "extend the bid grid so that every v / tau lies within it")
    check = table if holdout is None else finite_array("holdout", holdout, 2)
    if check.shape != table.shape:
        raise InputError("holdout", check.shape, f"give the same pairs and grid as curves: {table.shape}")
    own = _at(table, levels, bid)
    # A bid above v / tau violates the return constraint wherever it gets a click.
    feasible = np.where(levels[None, :] <= bid[:, None], table, -np.inf)
    best = feasible.argmax(axis=1)
    rows = np.arange(len(v))
    deviates = feasible[rows, best] > own + 1e-12
    own_check = _at(check, levels, bid)
    regret = np.where(deviates, v * (check[rows, best] - own_check), 0.0)
    obtained = v * own_check
    if obtained.sum() > 0:
        relative = ratio_interval(regret, obtained, seed, level, draws)
    else:
        relative = Interval(0.0, 0.0, 0.0) if not regret.any() else Interval(np.inf, np.inf, np.inf)
    value = bootstrap_interval(obtained, seed, level, draws)
    return ValueMaximiserIC(
        pairs=len(v),
        obtained=value,
        regret=bootstrap_interval(regret, seed, level, draws),
        relative=relative,
        deviating=float(deviates.mean()),
        tolerance=tolerance,
        holds=relative.hi <= tolerance and value.lo > 0,
    )


def value_maximiser_targets(
    curves: ArrayLike,
    grid: ArrayLike,
    values: ArrayLike,
    targets: Sequence[float],
    seed: int,
    *,
    level: float = 0.95,
    tolerance: float = 0.05,
    holdout: ArrayLike | None = None,
) -> ValueMaximiserTargets:
    """Measure the regret of bidding v / tau for each tau of `targets`, as `value_maximiser_ic` does for one.

    Raises:
        InputError: if `targets` is empty, does not rise, or puts a v / tau outside of the grid.
    """
    if not targets or (np.diff(targets) <= 0).any():
        raise InputError("targets", list(targets), "give rising return targets, such as 0.8, 1, 1.5")
    count = len(finite_array("values", values, 1))
    return ValueMaximiserTargets(
        tuple(
            (
                float(tau),
                value_maximiser_ic(
                    curves,
                    grid,
                    values,
                    np.full(count, tau),
                    seed,
                    level=level,
                    tolerance=tolerance,
                    holdout=holdout,
                ),
            )
            for tau in targets
        )
    )
