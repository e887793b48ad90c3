"""Small auctions as games: what every bidder gets and pays at every profile of bids, and the payment rules.

A table has one leading axis for the bidder and one axis of bids per bidder: `table[i, k_1, ..., k_n]` belongs to
bidder i when bidder j bids `bids[k_j]`. Clicks are itctr (Definition 3.1 of arXiv 2512.10551); payments are expected
money per auction, in the unit of the bids.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechanism.errors import InputError
from mechanism.statistics import Floats, finite_array

Allocation = Callable[[Floats], Floats]
"""Bid profiles (profiles, bidders) -> itctr (profiles, bidders)."""
Payment = Callable[[Floats, Floats], Floats]
"""A table of clicks and the grid of bids (bids,) -> the table of expected payments."""

MAX_PROFILES = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class Game:
    """One auction between bidders with `values` (bidders,) of a click, on a grid of `bids` (bids,) that rises."""

    values: Floats
    bids: Floats
    clicks: Floats
    payments: Floats

    @property
    def worth(self) -> Floats:
        """The table of v_i * itctr_i; its sum over the bidders is the welfare."""
        return np.asarray(self.clicks * self.values.reshape(-1, *[1] * len(self.values)))

    @property
    def utilities(self) -> Floats:
        """The table of utilities u_i = v_i * itctr_i - payment_i."""
        return np.asarray(self.worth - self.payments)


def bid_profiles(bids: ArrayLike, bidders: int) -> Floats:
    """Return all bid profiles (profiles, bidders) of a grid, the last bidder's bid changing fastest.

    Raises:
        InputError: if the grid does not rise from 0 or more, has fewer than two bids, or there are too many profiles.
    """
    grid = finite_array("bids", bids, 1)
    if len(grid) < 2 or grid[0] < 0 or (np.diff(grid) <= 0).any():
        raise InputError("bids", grid.tolist()[:5], "give at least two rising bids >= 0")
    if len(grid) ** bidders > MAX_PROFILES:
        remedy = f"use fewer bidders or a coarser grid, at most {MAX_PROFILES} profiles"
        raise InputError("bids ** bidders", len(grid) ** bidders, remedy)
    return np.array(list(itertools.product(grid, repeat=bidders)))


def as_table(rows: ArrayLike, bids: int) -> Floats:
    """Return figures of all profiles, `rows` (profiles, bidders) in the order of `bid_profiles`, as a table."""
    array = finite_array("rows", rows, 2)
    return np.ascontiguousarray(array.T.reshape(array.shape[1], *[bids] * array.shape[1]))


def tabulate(allocate: Allocation, values: ArrayLike, bids: ArrayLike, pay: Payment) -> Game:
    """Return the game of an allocation and a payment rule.

    Raises:
        InputError: if the allocation has another shape or negative entries.
    """
    v, grid = finite_array("values", values, 1), finite_array("bids", bids, 1)
    profiles = bid_profiles(grid, len(v))
    itctr = finite_array("allocate", allocate(profiles), 2)
    if itctr.shape != profiles.shape or itctr.min() < 0:
        raise InputError("allocate", itctr.shape, f"return non-negative itctr of shape {profiles.shape}")
    clicks = as_table(itctr, len(grid))
    return Game(v, grid, clicks, pay(clicks, grid))


def first_price(clicks: Floats, bids: Floats) -> Floats:
    """Charge b_i * itctr_i (Eq. 7)."""
    paid = np.empty_like(clicks)
    for i, own in enumerate(clicks):
        paid[i] = np.moveaxis(np.moveaxis(own, i, -1) * bids, -1, i)
    return paid


def threshold_price(clicks: Floats, bids: Floats) -> Floats:
    """Charge b * x(b) less the integral of x over 0..b, where x is the bidder's own allocation curve (Myerson 1981).

    Under an allocation that rises in the own bid, bidding the value is a dominant strategy. The curve is linear between
    the bids of the grid, and below the lowest bid as it is there.
    """
    paid = np.empty_like(clicks)
    for i, own in enumerate(clicks):
        x = np.moveaxis(own, i, -1)
        area = np.zeros_like(x)
        area[..., 1:] = np.cumsum((x[..., 1:] + x[..., :-1]) / 2 * np.diff(bids), axis=-1)
        paid[i] = np.moveaxis(x * bids - x[..., :1] * bids[0] - area, -1, i)
    return paid
