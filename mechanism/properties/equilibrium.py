"""Equilibrium of utility maximisers (Corollary 4.4): no-regret play under a payment rule, and what it earns.

A utility maximiser maximises u_i = v_i * itctr_i(b) - payment_i(b). Under first price it shades its bid, so revenue at
bids equal to the values flatters that rule; revenue and welfare are therefore read at the equilibrium. The games are
small (`games`): a few bidders on a bid grid, whose clicks and payments at all bid profiles the caller supplies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.properties.games import Allocation, Game, Payment, first_price, tabulate
from mechanism.statistics import Floats, Interval, bootstrap_interval, difference_interval

TOLERANCE = 0.05
"""Exploitability, as a share of the largest utility, that an approximate equilibrium may have."""


@dataclass(frozen=True, slots=True)
class Play:
    """The average strategies of no-regret play of one auction instance.

    `strategies[i][k]` is bidder i's average probability of bid k, and `utilities[i]` its utility under the average
    strategies. `gains[i]` is the most that it can gain by deviating from them alone (all zero in a Nash equilibrium),
    `regrets[i]` its average external regret (all zero in a coarse correlated equilibrium). `scale` is the largest
    utility of any bidder under any bids.

    `revenue` and `welfare` (sum of v_i * itctr_i) are those of the average strategies; `truthful_revenue` and
    `truthful_welfare` those of bidders that bid their values (the highest bid of the grid that is not above).
    `shading` is the mean over the bidders of mean bid / value. Money is per auction, in the unit of the values.
    """

    strategies: tuple[tuple[float, ...], ...]
    gains: tuple[float, ...]
    regrets: tuple[float, ...]
    utilities: tuple[float, ...]
    scale: float
    revenue: float
    welfare: float
    truthful_revenue: float
    truthful_welfare: float
    shading: float

    @property
    def exploitability(self) -> float:
        """The largest gain of any bidder."""
        return max(self.gains)

    @property
    def relative(self) -> float:
        """The exploitability in shares of the scale; zero where no bidder can earn anything."""
        return self.exploitability / self.scale if self.scale > 0 else 0.0


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


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """What one rule earns when bidders shade, over many instances; figures as in `Play`, per auction."""

    revenue: Interval
    welfare: Interval
    truthful_revenue: Interval
    truthful_welfare: Interval
    shading: Interval
    exploitability: Exploitability

    @property
    def reached(self) -> bool:
        """Whether the play ended in an approximate equilibrium; otherwise the figures are those of no equilibrium."""
        return self.exploitability.holds

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object."""
        return {
            "reached": self.reached,
            "revenue": self.revenue.to_dict(),
            "welfare": self.welfare.to_dict(),
            "truthful_revenue": self.truthful_revenue.to_dict(),
            "truthful_welfare": self.truthful_welfare.to_dict(),
            "shading": self.shading.to_dict(),
            "exploitability": self.exploitability.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class EquilibriumComparison:
    """Rules played by the same bidders with the same values.

    `revenue_gain` and `welfare_gain` are those of the `first` rule less each other rule's, paired by instance. It
    holds if every rule reached an equilibrium: only then are the figures comparable.
    """

    first: str
    rules: Mapping[str, Equilibrium]
    revenue_gain: Mapping[str, Interval]
    welfare_gain: Mapping[str, Interval]

    @property
    def holds(self) -> bool:
        """Whether every rule reached an approximate equilibrium."""
        return all(rule.reached for rule in self.rules.values())

    def to_dict(self) -> dict[str, object]:
        """Return a JSON object; mean, lo and hi are those of the first rule's revenue at equilibrium."""
        return {
            **self.rules[self.first].revenue.to_dict(),
            "holds": self.holds,
            "instances": self.rules[self.first].exploitability.instances,
            "first": self.first,
            "rules": {name: rule.to_dict() for name, rule in self.rules.items()},
            "revenue_gain": {name: gain.to_dict() for name, gain in self.revenue_gain.items()},
            "welfare_gain": {name: gain.to_dict() for name, gain in self.welfare_gain.items()},
        }


def no_regret_play(
    allocate: Allocation, values: ArrayLike, bids: ArrayLike, rounds: int = 1000, pay: Payment = first_price
) -> Play:
    """Play optimistic Hedge between utility maximisers with `values` (bidders,) on a grid of `bids` (bids,).

    Strategies start uniform. In every round each bidder observes the expected utility of every bid, so the play is
    deterministic. Bids rise from 0 or more; values, bids and payments have the same unit. InputErrors as `tabulate`.

    Raises:
        InputError: if `rounds` is below 1.
    """
    if rounds < 1:
        raise InputError("rounds", rounds, "play at least one round")
    game = tabulate(allocate, values, bids, pay)
    table = game.utilities
    n, k = len(game.values), len(game.bids)
    spread = np.array([max(float(u.max() - u.min()), 1e-12) for u in table])[:, None]
    total, last, played = np.zeros((n, k)), np.zeros((n, k)), np.zeros((n, k))
    earned = np.zeros(n)
    for _ in range(rounds):
        logits = (total + last) / spread  # optimistic: the last round's payoffs count twice
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        mixes = weights / weights.sum(axis=1, keepdims=True)
        last = _payoffs(table, mixes)
        total += last
        played += mixes
        earned += (mixes * last).sum(axis=1)
    regrets = np.maximum(0.0, (total.max(axis=1) - earned) / rounds)
    return _outcome(game, played / rounds, regrets)


def exploitability(
    plays: Sequence[Play], seed: int, level: float = 0.95, draws: int = 2000, tolerance: float = TOLERANCE
) -> Exploitability:
    """Summarise how far the plays of many instances (queries with their bidders) are from an equilibrium.

    Raises:
        InputError: if there are no plays.
    """
    if not plays:
        raise InputError("plays", 0, "give at least one instance")
    share = bootstrap_interval([p.relative for p in plays], seed, level, draws)
    regret = [max(p.regrets) / p.scale if p.scale > 0 else 0.0 for p in plays]
    return Exploitability(
        instances=len(plays),
        relative=share,
        absolute=bootstrap_interval([p.exploitability for p in plays], seed, level, draws),
        regret=bootstrap_interval(regret, seed, level, draws),
        tolerance=tolerance,
        holds=share.hi <= tolerance,
    )


def equilibrium(plays: Sequence[Play], seed: int, level: float = 0.95, tolerance: float = TOLERANCE) -> Equilibrium:
    """Summarise the plays of one rule; intervals are over the instances. InputError if there are no plays."""
    reached = exploitability(plays, seed, level, tolerance=tolerance)
    return Equilibrium(
        revenue=bootstrap_interval([p.revenue for p in plays], seed, level),
        welfare=bootstrap_interval([p.welfare for p in plays], seed, level),
        truthful_revenue=bootstrap_interval([p.truthful_revenue for p in plays], seed, level),
        truthful_welfare=bootstrap_interval([p.truthful_welfare for p in plays], seed, level),
        shading=bootstrap_interval([p.shading for p in plays], seed, level),
        exploitability=reached,
    )


def compare_equilibria(
    plays: Mapping[str, Sequence[Play]], seed: int, level: float = 0.95, tolerance: float = TOLERANCE
) -> EquilibriumComparison:
    """Compare rules by name, the first of them with each other, on the same instances in the same order.

    Raises:
        InputError: if there is no rule.
    """
    if not plays:
        raise InputError("plays", 0, "give the plays of at least one rule")
    first, *others = plays
    own = plays[first]

    def gain(name: str, figure: str) -> Interval:
        left, right = ([getattr(p, figure) for p in part] for part in (own, plays[name]))
        return difference_interval(left, right, seed, level)

    return EquilibriumComparison(
        first=first,
        rules={name: equilibrium(part, seed, level, tolerance) for name, part in plays.items()},
        revenue_gain={name: gain(name, "revenue") for name in others},
        welfare_gain={name: gain(name, "welfare") for name in others},
    )


def _outcome(game: Game, mixes: Floats, regrets: Floats) -> Play:
    """Return what the strategies `mixes` (bidders, bids) earn and leave to gain."""
    payoff = _payoffs(game.utilities, mixes)
    utility = (mixes * payoff).sum(axis=1)
    truthful = np.zeros_like(mixes)
    below = np.searchsorted(game.bids, game.values, side="right") - 1
    truthful[np.arange(len(mixes)), np.maximum(below, 0)] = 1.0
    return Play(
        strategies=tuple(tuple(row) for row in mixes.tolist()),
        gains=tuple(np.maximum(0.0, payoff.max(axis=1) - utility).tolist()),
        regrets=tuple(regrets.tolist()),
        utilities=tuple(utility.tolist()),
        scale=max(0.0, float(game.utilities.max())),
        revenue=_expected(game.payments, mixes),
        welfare=_expected(game.worth, mixes),
        truthful_revenue=_expected(game.payments, truthful),
        truthful_welfare=_expected(game.worth, truthful),
        shading=float(np.mean(mixes @ game.bids / game.values)),
    )


def _payoffs(table: Floats, mixes: Floats) -> Floats:
    """Return the expected figure (bidders, bids) of each bidder's every bid against the others' `mixes`."""
    return np.stack([_payoff(table[i], mixes, i) for i in range(len(mixes))])


def _payoff(figure: Floats, mixes: Floats, bidder: int) -> Floats:
    """Return the expected figure (bids,) of each bid of `bidder` against the other rows of `mixes` (bidders, bids)."""
    payoff = figure
    for other in reversed(range(len(mixes))):  # from the last axis, so that the remaining axes keep their numbers
        if other != bidder:
            payoff = np.tensordot(payoff, mixes[other], axes=(other, 0))
    return payoff


def _expected(table: Floats, mixes: Floats) -> float:
    """Return the expected sum over the bidders of a table of figures."""
    return float((mixes * _payoffs(table, mixes)).sum())
