"""`/c/{token}`: a followed link is judged, written to disk as a click event, and redirected at once.

The destination comes from the campaign record alone, so that no token, however it was made, leads anywhere else. The
charge itself is `serving.ledger.charging`'s; a disk that cannot be written keeps nobody from where they want to go.
"""

from __future__ import annotations

import asyncio
import html
import time
from datetime import UTC, datetime
from typing import Any

import structlog
from litestar import Request, Response, get, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from mechanism.errors import AuctionError, InputError
from serving.campaigns.catalogue import DEMO_PATH
from serving.campaigns.types import Campaign, Creative, Pricing, ReviewState
from serving.clicks.invalid_traffic import ClickRequest
from serving.clicks.tokens import Click, TokenError, TokenExpired
from serving.http.documents import documented
from serving.router import Router
from streaming.events import Click as ClickEvent

log = structlog.get_logger(__name__)

_LINK_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow"}


def click_routes(router: Router) -> list[HTTPRouteHandler]:
    """Handlers of the click redirect and of the demo landing pages."""
    clicks = router.metrics.clicks

    @route(
        "/c/{token:str}",
        http_method=["GET", "HEAD"],
        status_code=302,
        opt=documented(answer="To the advertiser.", media="text/html", secured=False),
    )
    async def follow(request: Request[Any, Any, Any], token: FromPath[str]) -> Response[str]:
        """Follow a sponsored link."""
        now = time.time()
        try:
            click = router.signer.read(token, now)
        except TokenExpired as expired:
            click = expired.click
        except TokenError:
            clicks.labels("forged", "").inc()
            return _notice(404, "This is not a valid sponsored link", "It was altered, or another server made it.")
        found = await _destination(router, click)
        if found is None or found[1].review is not ReviewState.APPROVED:
            clicks.labels("withdrawn", click.model_version).inc()
            return _notice(410, "This offer is no longer available", "The advertiser has taken it back.")
        address = request.client.host if request.client else ""
        asked = ClickRequest(request.method, dict(request.headers), address)
        invalid = router.screen.judge(click, asked, now)
        clicks.labels(invalid.value if invalid else "valid", click.model_version).inc()
        if not invalid and click.pricing is Pricing.CLICK:
            router.metrics.clicked.labels(click.currency, click.model_version).inc(click.price)
        await _record(router, click, found[0], invalid.value if invalid else "", now)
        return Response("", status_code=302, headers={**_LINK_HEADERS, "Location": found[1].landing_url})

    @get(DEMO_PATH + "{ad_id:str}", opt=documented(answer="A page.", media="text/html", secured=False))
    async def demo(ad_id: FromPath[str]) -> Response[str]:
        """The landing page of an invented advertiser."""
        found = await _destination(router, Click("", ad_id, 0, "", 0))
        if found is None or found[1].landing_url != DEMO_PATH + ad_id:
            return _notice(404, "There is no such advertiser", "This demo page belongs to no ad of the catalogue.")
        campaign, creative = found
        offer = creative.text[:1].upper() + creative.text[1:]
        told = f"{offer}. {campaign.advertiser_id} is an invented advertiser; here its own site would open."
        return _notice(200, creative.title, told)

    return [follow, demo]


async def _destination(router: Router, click: Click) -> tuple[Campaign, Creative] | None:
    """The campaign and creative of a click, from memory, or for one that is over from the database."""
    campaign = router.marketplace.index.get(click.campaign_id) if click.campaign_id else None
    if campaign is None:
        try:
            campaign = await asyncio.to_thread(router.campaigns.campaign_of, click.ad_id)
        except InputError:
            return None
    creative = next((c for c in campaign.creatives if c.id == click.ad_id), None)
    return None if creative is None else (campaign, creative)


async def _record(router: Router, click: Click, campaign: Campaign, invalid: str, now: float) -> None:
    """Writes the click down, to be charged in the background."""
    event = ClickEvent(
        occurred_at=datetime.fromtimestamp(now, UTC),
        click_id=click.id,
        auction_id=click.auction_id,
        ad_id=click.ad_id,
        campaign_id=campaign.id,
        placement=click.placement,
        verdict="invalid" if invalid else "valid",
        reason=invalid,
        price_micros=click.price if click.pricing is Pricing.CLICK else 0,
        currency=click.currency,
        model_version=click.model_version,
    )
    try:
        await asyncio.wrap_future(router.events.put_durably(event))
    except AuctionError as error:
        log.error("click not on disk", click_id=click.id, reason=type(error).__name__)


def _notice(status: int, title: str, text: str) -> Response[str]:
    """A small page for a person who followed a link."""
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/assets/style.css">
<body class="notice"><main><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>
<p><a href="/">Back to the chat</a></p></main>
</body></html>"""
    return Response(page, status_code=status, media_type="text/html", headers=_LINK_HEADERS)
