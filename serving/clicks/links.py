"""The links of one answer: what a click on an offer stands for, signed, under the router's address."""

from __future__ import annotations

from dataclasses import dataclass

from serving.auction.offers import Offer
from serving.clicks.tokens import Click, TokenSigner


@dataclass(frozen=True, slots=True)
class ClickLinks:
    """Makes the links of one auction, which began at Unix time `created`; they hold for `lifetime_s`."""

    signer: TokenSigner
    base_url: str
    auction_id: str
    created: int
    lifetime_s: int
    placement: str
    model_version: str

    def url(self, offer: Offer) -> str:
        """The address that a reader of this answer clicks on."""
        click = Click(
            auction_id=self.auction_id,
            ad_id=offer.ad.id,
            price=offer.bid,
            currency=offer.campaign.currency,
            expires=self.created + self.lifetime_s,
            campaign_id=offer.campaign.id,
            pricing=offer.campaign.pricing,
            placement=self.placement,
            issued=self.created,
            model_version=self.model_version,
        )
        return f"{self.base_url}/c/{self.signer.sign(click)}"
