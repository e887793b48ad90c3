"""Ranking by bid * weight, and the smallest bid that keeps a rank: shared by `gsp`, `segment` and `lera`.

Scores are exact rationals, because a float score could round the price of a narrow win above the bid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from mechanism.errors import InputError
from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class Won:
    """A placement that an ad won, and its price per click in micros: 0 <= price <= bid."""

    ad_id: AdId
    price: Micros


@dataclass(frozen=True, slots=True)
class Ranked:
    """One competing ad."""

    ad_id: AdId
    bid: Micros
    weight: Fraction

    @property
    def score(self) -> Fraction:
        """Exactly bid * weight."""
        return self.bid * self.weight


def check_weights(place: str, bids: Mapping[AdId, Micros], weights: Mapping[AdId, float]) -> None:
    """Check the weights of all bidders.

    Raises:
        InputError: unless every bidder has a finite weight >= 0 and a bid >= 0.
    """
    for ad_id, bid in bids.items():
        if ad_id not in weights:
            raise InputError(f"{place} of ad {ad_id}", None, "score every candidate")
        if not math.isfinite(weights[ad_id]) or weights[ad_id] < 0:
            raise InputError(f"{place} of ad {ad_id}", weights[ad_id], "give a finite number >= 0")
        if bid < 0:
            raise InputError(f"bid of ad {ad_id}", bid, "give a whole number of micros >= 0")


def rank(bids: Mapping[AdId, Micros], weights: Mapping[AdId, float], reserve: Micros = 0) -> list[Ranked]:
    """Return the competing ads by descending bid * weight, ties by ad id. `check_weights` must have passed.

    An ad whose score is zero or under the reserve does not compete. With a pCTR as weight, the reserve is the expected
    payment of one impression, in micros.

    Raises:
        InputError: if the reserve is negative.
    """
    if reserve < 0:
        raise InputError("reserve", reserve, "give a whole number of micros >= 0")
    entries = [Ranked(ad_id, bid, Fraction(weights[ad_id])) for ad_id, bid in bids.items()]
    return sorted((e for e in entries if e.score > 0 and e.score >= reserve), key=lambda e: (-e.score, e.ad_id))


def price_to_keep(winner: Ranked, runner_up: Ranked | None, reserve: Micros = 0) -> Micros:
    """Return the smallest bid in micros whose score reaches the runner-up's and the reserve.

    It cannot exceed the winner's bid: that is a whole number, and its score is at least both.
    """
    threshold = Fraction(reserve) if runner_up is None else max(Fraction(reserve), runner_up.score)
    return math.ceil(threshold / winner.weight)
