"""One candidate of one auction, with everything that a reader, a click or a charge will ask of it."""

from __future__ import annotations

from dataclasses import dataclass

from mechanism.types import Ad, Candidate, Micros
from serving.auction.retrieval.index import Found
from serving.campaigns.types import Campaign, Creative


@dataclass(frozen=True, slots=True)
class Offer:
    """A creative in a prompt: `bid` is what it bids in this auction, in micros of its campaign's currency."""

    ad: Ad
    bid: Micros
    campaign: Campaign
    creative: Creative
    relevance: float

    def candidate(self) -> Candidate:
        """The ad as an auction sees it."""
        return Candidate(self.ad, self.bid)


def offer_of(found: Found) -> Offer:
    """What retrieval found, as an offer. The ad's landing page stays with the campaign: no policy needs it."""
    campaign, creative = found.eligible.campaign, found.eligible.creative
    ad = Ad(creative.id, creative.title, creative.text, campaign.advertiser_id, campaign.category)
    return Offer(ad, found.eligible.bid, campaign, creative, found.relevance)
