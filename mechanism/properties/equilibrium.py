"""Equilibrium of utility maximisers (Corollary 4.4): no-regret play under first price, and its exploitability.

A utility maximiser maximises u_i = (v_i - b_i) * itctr_i(b). The games are small: a few bidders on a bid grid, whose
allocation at all bid profiles is computed in one call. The caller supplies that allocation: exact propensities, a
fitted curve, or a formula.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, bootstrap_interval, finite_array

Allocation = Callable[[Floats], Floats]
"""Bid profiles (profiles, bidders) -> itctr (profiles, bidders)."""

MAX_PROFILES = 200_000


@dataclass(frozen=True, slots=True)
class Play:
    """The average strategies of no-regret play of one auction instance.

    `strategies[i][k]` is bidder i's average probability of bid k, and `utilities[i]` its utility under the average
    strategies. `gains[i]` is the most that it can gain by deviating from them alone (all zero in a Nash equilibrium),
    `regrets[i]` its average external regret (all zero in a coarse correlated equilibrium). `scale` is the largest
    utility of any bidder under any bids. Utilities are per auction, in the unit of the values.
    """

    strategies: tuple[tuple[float, ...], ...]
    gains: tuple[float, ...]
    regrets: tuple[float, ...]
    utilities: tuple[float, ...]
    scale: float

    @property
    def exploitability(self) -> float:
        """The largest gain of any bidder."""
        return max(self.gains)


@dataclass(frozen=True, slots=True)
class Exploitability:
    """Exploitability over many instances.

    `absolute` is in the unit of the values, `relative` in shares of each instance's scale; `regret` is the largest
    external regret, relative as well. `holds`: the upper end of `relative` is within `tolerance`.
    """

    instances: int
    relative: Interval
    absolute: Interval
    regret: Interval
    tolerance: float
    holds: bool

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo and hi are those of the relative exploitability."""
        return {
            **self.relative.to_dict(),
            "holds": self.holds,
            "absolute": self.absolute.to_dict(),
            "regret": self.regret.to_dict(),
            "tolerance": self.tolerance,
            "instances": self.instances,
        }


def _utilities(allocate: Allocation, values: Floats, bids: Floats) -> Floats:
    """Return u_i = (v_i - b_i) * itctr_i of every bid profile, (bidders, bids, ..., bids) with one axis per bidder.

    Raises:
        InputError: if there are too many profiles, or the allocation has another shape or negative entries.
    """
    n, k = len(values), len(bids)
    if k**n > MAX_PROFILES:
        raise InputError(
            "bids ** bidders", k**n, f"use fewer bidders or a coarser grid, at most {MAX_PROFILES} profiles"
        )
    profiles = np.array(list(itertools.product(bids, repeat=n)))
    itctr = finite_array("allocate", allocate(profiles), 2)
    if itctr.shape != profiles.shape or itctr.min() < 0:
        raise InputError("allocate", itctr.shape, f"return non-negative itctr of shape {profiles.shape}")
    utilities: Floats = ((values - profiles) * itctr).T.reshape(n, *[k] * n)
    return utilities


def _payoff(utility: Floats, mixes: Floats, bidder: int) -> Floats:
    """Return the expected utility (bids,) of each bid of `bidder` against the other rows of `mixes` (bidders, bids)."""
    payoff = utility
    for other in reversed(range(len(mixes))):  # from the last axis, so that the remaining axes keep their numbers
        if other != bidder:
            payoff = np.tensordot(payoff, mixes[other], axes=(other, 0))
    return payoff


def no_regret_play(allocate: Allocation, values: ArrayLike, bids: ArrayLike, rounds: int = 1000) -> Play:
    """Play optimistic Hedge between utility maximisers with `values` (bidders,) on a grid of `bids` (bids,).

    Strategies start uniform. In every round each bidder observes the expected utility of every bid, so the play is
    deterministic. Bids rise from 0 or more; values and bids have the same unit.

    Raises:
        InputError: if the grid is too large, not rising or negative, or the allocation has the wrong shape.
    """
    v, grid = finite_array("values", values, 1), finite_array("bids", bids, 1)
    if len(grid) < 2 or grid[0] < 0 or (np.diff(grid) <= 0).any() or rounds < 1:
        raise InputError(
            "bids, rounds", (grid.tolist()[:5], rounds), "give at least two rising bids >= 0 and one round"
        )
    table = _utilities(allocate, v, grid)
    n, k = len(v), len(grid)
    spread = np.array([max(float(u.max() - u.min()), 1e-12) for u in table])[:, None]
    total, last, played = np.zeros((n, k)), np.zeros((n, k)), np.zeros((n, k))
    earned = np.zeros(n)
    for _ in range(rounds):
        logits = (total + last) / spread  # optimistic: the last round's payoffs count twice
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        mixes = weights / weights.sum(axis=1, keepdims=True)
        last = np.stack([_payoff(table[i], mixes, i) for i in range(n)])
        total += last
        played += mixes
        earned += (mixes * last).sum(axis=1)
    average = played / rounds
    payoff = np.stack([_payoff(table[i], average, i) for i in range(n)])
    utility = (average * payoff).sum(axis=1)
    return Play(
        strategies=tuple(tuple(row) for row in average.tolist()),
        gains=tuple(np.maximum(0.0, payoff.max(axis=1) - utility).tolist()),
        regrets=tuple(np.maximum(0.0, (total.max(axis=1) - earned) / rounds).tolist()),
        utilities=tuple(utility.tolist()),
        scale=max(0.0, float(table.max())),
    )


def exploitability(
    plays: Sequence[Play], seed: int, level: float = 0.95, draws: int = 2000, tolerance: float = 0.05
) -> Exploitability:
    """Summarise the plays of many instances (queries with their bidders).

    An instance in which no bidder can earn anything counts as zero.

    Raises:
        InputError: if there are no plays.
    """
    if not plays:
        raise InputError("plays", 0, "give at least one instance")
    absolute = [p.exploitability for p in plays]
    relative = [p.exploitability / p.scale if p.scale > 0 else 0.0 for p in plays]
    regret = [max(p.regrets) / p.scale if p.scale > 0 else 0.0 for p in plays]
    share = bootstrap_interval(relative, seed, level, draws)
    return Exploitability(
        instances=len(plays),
        relative=share,
        absolute=bootstrap_interval(absolute, seed, level, draws),
        regret=bootstrap_interval(regret, seed, level, draws),
        tolerance=tolerance,
        holds=share.hi <= tolerance,
    )
