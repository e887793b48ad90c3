"""Equilibrium of utility maximisers (Corollary 4.4): no-regret play under first price, and how exploitable its end is.

Small games only: a few bidders on a bid grid, whose whole allocation table is asked for in one call. Where the table
comes from (exact propensities, a fitted curve, a toy rule) is left to the caller.
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
    """Where no-regret play of one auction instance ended.

    `strategies[i][k]` is bidder i's average probability of bid k; `gains[i]` the most that bidder i can gain by leaving
    the average strategies, the others keeping theirs (all zero in a Nash equilibrium); `regrets[i]` its average
    external regret (all zero in a coarse correlated equilibrium); `utilities[i]` its utility under the average
    strategies; `scale` the largest utility of any bidder under any bids. Utilities are per auction, in the unit of
    the values.
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
    """Exploitability over instances: `absolute` in the unit of the values, `relative` in shares of each instance's
    scale, `regret` the largest external regret, relative too. `holds`: the whole interval of `relative` is within
    `tolerance`."""

    instances: int
    relative: Interval
    absolute: Interval
    regret: Interval
    tolerance: float
    holds: bool

    def to_dict(self) -> dict[str, object]:
        """JSON-able; mean, lo, hi are those of the relative exploitability."""
        return {
            **self.relative.to_dict(),
            "holds": self.holds,
            "absolute": self.absolute.to_dict(),
            "regret": self.regret.to_dict(),
            "tolerance": self.tolerance,
            "instances": self.instances,
        }


def _utilities(allocate: Allocation, values: Floats, bids: Floats) -> Floats:
    """u_i = (v_i - b_i) * itctr_i for every bid profile: (bidders, bids, ..., bids) with one axis per bidder."""
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
    """Expected utility of each bid (bids,) of `bidder` against the others' mixed strategies (bidders, bids)."""
    payoff = utility
    for other in reversed(range(len(mixes))):  # from the last axis, so that lower axes keep their numbers
        if other != bidder:
            payoff = np.tensordot(payoff, mixes[other], axes=(other, 0))
    return payoff


def no_regret_play(allocate: Allocation, values: ArrayLike, bids: ArrayLike, rounds: int = 1000) -> Play:
    """Optimistic Hedge of utility maximisers with `values` (bidders,) on the grid `bids` (rising, >= 0).

    Play begins uniform. Every round each bidder sees the expected utility of every bid, so the play is deterministic.
    Raises InputError for a grid that is too large, not rising or negative, or an allocation of the wrong shape.
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
        logits = (total + last) / spread  # optimism: the last round's payoffs count twice
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
    """Sum up the plays of many instances (queries with their bidders). Instances in which nobody can earn anything have
    nothing to exploit and count as zero. Raises InputError when there are no plays."""
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
