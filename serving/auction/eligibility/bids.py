"""Segment adjustments of bids for all campaigns at once, exact to the micro.

Products are made in 64-bit whole numbers where they fit; the few that would not fit are multiplied by Python's.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serving.auction.eligibility.request import PlacementRequest, segment_code
from serving.auction.eligibility.rules import adjusted_bid
from serving.campaigns.types import LARGEST_BID, Campaign

_SAFE = 2.0**62
_Segment = tuple[str, str]
_Factor = tuple[int, int]  # numerator, denominator


class BidAdjustments:
    """The adjustments of all slots by (dimension, code)."""

    def __init__(self) -> None:
        self._factors: dict[_Segment, dict[int, _Factor]] = {}
        self._arrays: dict[_Segment, tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]] = {}

    def add(self, campaign: Campaign, slot: int) -> None:
        """Files the adjustments of a campaign that `check_bid` has passed."""
        for segment, factor in _factors(campaign).items():
            self._factors.setdefault(segment, {})[slot] = factor
            self._arrays.pop(segment, None)

    def discard(self, campaign: Campaign, slot: int) -> None:
        """Forgets the slot's adjustments."""
        for segment in _factors(campaign):
            slots = self._factors.get(segment, {})
            slots.pop(slot, None)
            self._arrays.pop(segment, None)
            if not slots:
                self._factors.pop(segment, None)

    def apply(
        self, bids: NDArray[np.int64], request: PlacementRequest, campaigns: tuple[Campaign | None, ...]
    ) -> NDArray[np.int64]:
        """Adjusted bids by slot, shape of `bids`; `bids` itself where no adjustment matches."""
        matching = [(d, code) for d, codes in request.segments.items() for code in codes if (d, code) in self._factors]
        if not matching:
            return bids
        product, divisor = bids.copy(), np.ones(len(bids), np.int64)
        size, depth = bids.astype(np.float64), np.ones(len(bids))  # the same products, roughly
        touched = np.zeros(len(bids), np.bool_)
        with np.errstate(over="ignore"):  # what wraps around is found by its size and done again
            for segment in matching:
                slots, numerators, denominators = self._array(segment)
                product[slots] *= numerators
                size[slots] *= numerators
                divisor[slots] *= denominators
                depth[slots] *= denominators
                touched[slots] = True
            where = np.flatnonzero(touched)
            adjusted = bids.copy()
            adjusted[where] = product[where] // np.maximum(divisor[where], 1)
        for slot in where[np.maximum(size[where], depth[where]) >= _SAFE]:
            campaign = campaigns[slot]
            adjusted[slot] = adjusted_bid(campaign, request) if campaign else 0
        return adjusted

    def _array(self, segment: _Segment) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        found = self._arrays.get(segment)
        if found is None:
            factors = self._factors[segment]
            slots = np.fromiter(factors, np.int32, len(factors))
            numerators = np.array([min(n, LARGEST_BID) for n, _ in factors.values()], np.int64)
            denominators = np.array([min(d, LARGEST_BID) for _, d in factors.values()], np.int64)
            found = self._arrays[segment] = (slots, numerators, denominators)
        return found


def _factors(campaign: Campaign) -> dict[_Segment, _Factor]:
    """One factor per segment: a campaign may name a segment several times. Fractions are reduced, to stay small."""
    found: dict[_Segment, _Factor] = {}
    for adjustment in campaign.adjustments:
        segment = (adjustment.dimension, segment_code(adjustment.dimension, adjustment.value))
        numerator, denominator = found.get(segment, (1, 1))
        numerator, denominator = numerator * adjustment.thousandths, denominator * 1_000
        shared = math.gcd(numerator, denominator)
        found[segment] = (numerator // shared, denominator // shared)
    return found
