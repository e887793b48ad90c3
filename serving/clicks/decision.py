"""The decision on a followed link: where it leads, whether the click is valid, and the event that records it.

The destination comes from the campaign record alone, so that no token leads anywhere else. Charging is left to
`serving.ledger`, HTTP to `serving.http.clicks`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from mechanism.errors import InputError
from mechanism.types import AdId
from mechanism.weights import weights_of
from serving.accounts.publishers import PlacementDirectory
from serving.auction.marketplace import Marketplace
from serving.campaigns.macros import fill
from serving.campaigns.storage import CampaignStore
from serving.campaigns.types import Campaign, Creative, Pricing, ReviewState
from serving.clicks.invalid_traffic import ClickRequest, ClickScreen, InvalidReason
from serving.clicks.tokens import ClickClaims, TokenError, TokenExpired, TokenSigner
from streaming.events import Click

VALID, FORGED, WITHDRAWN = "valid", "forged", "withdrawn"


@dataclass(frozen=True, slots=True)
class ClickDecision:
    """The decision on one followed link.

    `outcome` is VALID, the code of an `InvalidReason`, FORGED (the token is not ours) or WITHDRAWN (the creative is
    gone or no longer approved). The last two have neither a landing page nor an event. `version` is the served version
    that wrote the answer, `issued` the Unix time of the answer, 0 if unknown. `charges` is the campaign that a valid
    click costs, if any.
    """

    outcome: str
    version: str = ""
    landing_url: str = ""
    event: Click | None = None
    issued: int = 0
    charges: Campaign | None = None


class ClickRules:
    """Decides on the clicks of one router. Belongs to the event loop; the database is called on a thread."""

    def __init__(
        self,
        signer: TokenSigner,
        screen: ClickScreen,
        market: Marketplace,
        campaigns: CampaignStore,
        placements: PlacementDirectory,
    ) -> None:
        self._signer = signer
        self._screen = screen
        self._market = market
        self._campaigns = campaigns
        self._placements = placements

    async def decide(self, token: str, request: ClickRequest, now: float) -> ClickDecision:
        """Decide on a link followed at Unix time `now`."""
        try:
            claims = self._signer.read(token, now)
        except TokenExpired as expired:
            claims = expired.claims
        except TokenError:
            return ClickDecision(FORGED)
        found = await self.find(claims.ad_id, claims.campaign_id)
        if found is None or found[1].review is not ReviewState.APPROVED:
            return ClickDecision(WITHDRAWN, claims.version)
        campaign, creative = found
        invalid = self._screen.check(claims, request, now)
        source, publisher = self._screen.source(request.address), self._placements.owner(claims.placement)
        event = _event(claims, campaign, invalid, now, source, publisher)
        charges = campaign if invalid is None and event.price_micros else None
        return ClickDecision(
            outcome=invalid or VALID,
            version=claims.version,
            landing_url=fill(
                creative.landing_url,
                {"click_id": claims.id, "campaign_id": campaign.id, "creative_id": creative.id},
            ),
            event=event,
            issued=claims.issued,
            charges=charges,
        )

    async def find(self, ad_id: AdId, campaign_id: str = "") -> tuple[Campaign, Creative] | None:
        """Return a creative and its campaign: from memory, or from the database if the campaign is not live."""
        campaign = self._market.index.get(campaign_id) if campaign_id else None
        if campaign is None:
            try:
                campaign = await asyncio.to_thread(self._campaigns.campaign_of, ad_id)
            except InputError:
                return None
        creative = next((c for c in campaign.creatives if c.id == ad_id), None)
        return None if creative is None else (campaign, creative)


def _event(
    claims: ClickClaims, campaign: Campaign, invalid: InvalidReason | None, now: float, source: str, publisher: str
) -> Click:
    return Click(
        occurred_at=datetime.fromtimestamp(now, UTC),
        click_id=claims.id,
        auction_id=claims.auction_id,
        ad_id=claims.ad_id,
        campaign_id=campaign.id,
        placement=claims.placement,
        verdict="invalid" if invalid else "valid",
        reason=invalid.value if invalid else "",
        price_micros=claims.price if claims.pricing is Pricing.CLICK else 0,
        currency=claims.currency,
        model_version=weights_of(claims.version),
        source=source,
        publisher_id=publisher,
    )
