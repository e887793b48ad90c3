"""The offers of one prompt: from retrieval's hits to separated candidates in a stable order.

Offers are ordered by creative id. A model server's prefix cache reuses a prompt up to its first difference: in a fixed
order, two prompts with the same candidates share all of their offers, and others share the rules and the offers before
the first difference. An order by score would change with every question and end the shared part at the first offer; an
order by bid would also let an offer's position reveal its bid. An order by popularity might share a little more, but
would change while the cache is in use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mechanism.types import Ad, AdId, Candidate, Micros
from serving.auction.retrieval.index import Hit
from serving.auction.separation import Contender, Displaced, separate
from serving.campaigns.types import Campaign, Creative, Priority, normal
from serving.settings import BlockRule


@dataclass(frozen=True, slots=True)
class Offer:
    """A creative in a prompt, with what rendering, clicks and charges need of it.

    `bid` is its bid in this auction, in micros of its campaign's currency, and `price` what a click on it costs.
    """

    ad: Ad
    bid: Micros
    campaign: Campaign
    creative: Creative
    relevance: float

    @property
    def price(self) -> Micros:
        """The bid; nothing for a house ad."""
        return 0 if self.campaign.priority is Priority.HOUSE else self.bid

    def candidate(self) -> Candidate:
        """Return the ad as the mechanism takes it."""
        return Candidate(self.ad, self.bid)


def choose_offers(
    hits: Sequence[Hit], count: int, blocks: BlockRule = "same-category"
) -> tuple[tuple[Offer, ...], tuple[Displaced, ...]]:
    """Return the `count` first of `hits` that may share a prompt, by creative id, and the displaced hits.

    `hits` are in the order of their priorities, those of one priority best first.

    Search for a few times `count`, so that the prompt is full after separation. `blocks` is the market's rule for the
    advertisers that campaigns block.
    """
    together, displaced = separate(_contender(hit, blocks) for hit in hits)
    kept = {contender.creative_id for contender in together}
    chosen = [hit for hit in hits if hit.eligible.creative.id in kept][:count]
    return tuple(_offer(hit) for hit in sorted(chosen, key=lambda h: _natural_order(h.eligible.creative.id))), displaced


def _contender(hit: Hit, blocks: BlockRule) -> Contender:
    campaign, creative, bid = hit.eligible
    blocking = bool(campaign.block_advertisers) and blocks != "never"
    return Contender(
        creative.id,
        campaign.id,
        normal(campaign.advertiser_id),
        campaign.separation,
        hit.relevance,
        bid,
        campaign.priority.rank,
        normal(campaign.category),
        _normal_names(campaign.block_advertisers) if blocking else frozenset(),
    )


def _offer(hit: Hit) -> Offer:
    # The landing page stays with the campaign: no policy needs it.
    campaign, creative = hit.eligible.campaign, hit.eligible.creative
    ad = Ad(creative.id, creative.title, creative.text, campaign.advertiser_id, campaign.category)
    return Offer(ad, hit.eligible.bid, campaign, creative, hit.relevance)


@lru_cache(maxsize=20_000)
def _normal_names(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(normal, names))


@lru_cache(maxsize=200_000)
def _natural_order(ad_id: AdId) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key that puts A2 before A10; ids that differ only in leading zeros are ordered as text."""
    parts = re.findall(r"\d+|\D+", ad_id)
    return (*((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts), (2, 0, ad_id))
