"""Segment adjustments of bids for all campaigns at once, exact to the micro.

Products are computed in 64-bit integers; the few that would overflow are computed again in Python's integers.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from serving.auction.eligibility.request import PlacementRequest, segment_code
from serving.auction.eligibility.rules import adjusted_bid
from serving.auction.eligibility.slots import CampaignSlots
from serving.campaigns.types import LARGEST_BID, Campaign

_SAFE = 2.0**62
_Segment = tuple[str, str]  # dimension, code
_Factor = tuple[int, int]  # numerator, denominator
_FactorArrays = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]  # slots, numerators, denominators


class BidAdjustments:
    """The adjustments of all campaigns by segment."""

    def __init__(self) -> None:
        self._factors: dict[_Segment, dict[int, _Factor]] = {}
        self._arrays: dict[_Segment, _FactorArrays] = {}

    def add(self, campaign: Campaign, slot: int) -> None:
        """Add the adjustments of a campaign that `check_bid` accepts."""
        for segment, factor in _factors(campaign).items():
            self._factors.setdefault(segment, {})[slot] = factor
            self._arrays.pop(segment, None)

    def discard(self, campaign: Campaign, slot: int) -> None:
        """Remove the adjustments of a campaign as it was added."""
        for segment in _factors(campaign):
            slots = self._factors.get(segment, {})
            slots.pop(slot, None)
            self._arrays.pop(segment, None)
            if not slots:
                self._factors.pop(segment, None)

    def apply(self, bids: NDArray[np.int64], request: PlacementRequest, campaigns: CampaignSlots) -> NDArray[np.int64]:
        """Return the adjusted bids by slot, shape of `bids`; `bids` itself where no adjustment matches."""
        matching = [(d, code) for d, codes in request.segments.items() for code in codes if (d, code) in self._factors]
        if not matching:
            return bids
        product, divisor = bids.copy(), np.ones(len(bids), np.int64)
        # The same products as floats: they show which of the integer ones have overflowed.
        product_size, divisor_size = bids.astype(np.float64), np.ones(len(bids))
        touched = np.zeros(len(bids), np.bool_)
        with np.errstate(over="ignore"):
            for segment in matching:
                slots, numerators, denominators = self._array(segment)
                product[slots] *= numerators
                product_size[slots] *= numerators
                divisor[slots] *= denominators
                divisor_size[slots] *= denominators
                touched[slots] = True
            where = np.flatnonzero(touched)
            adjusted = bids.copy()
            adjusted[where] = product[where] // np.maximum(divisor[where], 1)
        for slot in where[np.maximum(product_size[where], divisor_size[where]) >= _SAFE]:
            campaign = campaigns[int(slot)]
            adjusted[slot] = adjusted_bid(campaign, request.segments) if campaign else 0
        return adjusted

    def _array(self, segment: _Segment) -> _FactorArrays:
        found = self._arrays.get(segment)
        if found is None:
            factors = self._factors[segment]
            slots = np.fromiter(factors, np.int32, len(factors))
            numerators = np.array([min(n, LARGEST_BID) for n, _ in factors.values()], np.int64)
            denominators = np.array([min(d, LARGEST_BID) for _, d in factors.values()], np.int64)
            found = self._arrays[segment] = (slots, numerators, denominators)
        return found


def _factors(campaign: Campaign) -> dict[_Segment, _Factor]:
    """Combine the adjustments of each segment into one reduced fraction: a campaign may name a segment repeatedly."""
    found: dict[_Segment, _Factor] = {}
    for adjustment in campaign.adjustments:
        segment = (adjustment.dimension, segment_code(adjustment.dimension, adjustment.value))
        numerator, denominator = found.get(segment, (1, 1))
        numerator, denominator = numerator * adjustment.thousandths, denominator * 1_000
        shared = math.gcd(numerator, denominator)
        found[segment] = (numerator // shared, denominator // shared)
    return found
