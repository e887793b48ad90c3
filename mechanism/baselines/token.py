"""Token auction (Mechanism Design for Large Language Models, arXiv 2310.10826): advertisers bid on every token.

Each advertiser's preferred distribution is the policy's, prompted with that ad alone; the platform draws every token
from their mixture with weights in proportion to the bids, the linear aggregation, which is monotone: a higher bid never
moves the mixture away from what its advertiser prefers. Only advertisers with a good retrieval score take part, because
each costs a forward pass per token. The paper derives a second-price-like payment per token; here a click costs the
bid, as with the other mechanisms of the table, so that figures compare allocations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mechanism.baselines.ranking import check_weights, rank
from mechanism.errors import InputError
from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """The number of advertisers whose distributions are mixed."""

    advertisers: int = 3

    def __post_init__(self) -> None:
        if self.advertisers < 1:
            raise InputError("advertisers", self.advertisers, "give at least one")


def mixture(bids: Mapping[AdId, Micros], relevance: Mapping[AdId, float], settings: TokenSettings) -> dict[AdId, float]:
    """Return the weights of the advertisers that take part: those of the highest bid * relevance; they sum to 1.

    Without an ad of a positive score there are none. A missing, negative or non-finite relevance is an InputError.
    """
    check_weights("relevance", bids, relevance)
    taking_part = rank(bids, relevance)[: settings.advertisers]
    total = sum(own.bid for own in taking_part)
    return {own.ad_id: own.bid / total for own in taking_part}
