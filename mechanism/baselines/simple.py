"""Two auctions that use half of what is known: relevance without bids, and bids without relevance. Winners pay bids."""

from __future__ import annotations

from collections.abc import Mapping

from mechanism.baselines.ranking import Won, check_weights
from mechanism.errors import InputError
from mechanism.types import AdId, Micros


def most_relevant(bids: Mapping[AdId, Micros], relevance: Mapping[AdId, float], slots: int) -> tuple[Won, ...]:
    """Return the `slots` most relevant ads, ties by ad id, at their bids; no bid changes who wins.

    A missing, negative or non-finite relevance is an InputError.
    """
    check_weights("relevance", bids, relevance)
    return _first(bids, relevance, slots)


def highest_bids(bids: Mapping[AdId, Micros], slots: int) -> tuple[Won, ...]:
    """Return the `slots` highest bidders, ties by ad id, at their bids."""
    return _first(bids, bids, slots)


def _first(bids: Mapping[AdId, Micros], scores: Mapping[AdId, float], slots: int) -> tuple[Won, ...]:
    """Return the ads of the highest scores.

    Raises:
        InputError: unless there is at least one slot.
    """
    if slots < 1:
        raise InputError("slots", slots, "give at least one slot")
    order = sorted(bids, key=lambda ad_id: (-scores[ad_id], ad_id))
    return tuple(Won(ad_id, bids[ad_id]) for ad_id in order[:slots])
