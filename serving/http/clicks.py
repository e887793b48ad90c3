"""`/c/{token}`: follows a sponsored link. The click event is written to disk, then the reader is redirected.

`serving.clicks.decision` decides on the click, `serving.ledger` charges it. A full disk does not keep readers from
their destination.
"""

from __future__ import annotations

import asyncio
import html
import time

import structlog
from litestar import Response, get, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from mechanism.errors import AuctionError
from mechanism.weights import weights_of
from serving.campaigns.catalogue import DEMO_PATH
from serving.clicks.decision import FORGED, VALID, WITHDRAWN, ClickRules
from serving.clicks.invalid_traffic import ClickRequest
from serving.http.bodies import HttpRequest
from serving.http.documents import documented
from serving.http.proxies import network_of
from serving.http.rate_limits import RateLimits
from serving.router import Router
from streaming.events import Click

log = structlog.get_logger(__name__)

_LINK_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow"}
_NOTICE_HEADERS = _LINK_HEADERS | {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
}
_NOTICES = {
    FORGED: (404, "This is not a valid sponsored link", "It was altered, or another server made it."),
    WITHDRAWN: (410, "This offer is no longer available", "The advertiser has withdrawn it."),
}


def click_routes(router: Router, limits: RateLimits) -> list[HTTPRouteHandler]:
    """Return the handlers of the click redirect and of the demo landing pages."""
    metrics = router.metrics
    rules = ClickRules(router.signer, router.screen, router.marketplace, router.campaigns, router.placements)

    @route(
        "/c/{token:str}",
        http_method=["GET", "HEAD"],
        status_code=302,
        opt=documented(answer="To the advertiser.", media="text/html", secured=False),
    )
    async def follow(request: HttpRequest, token: FromPath[str]) -> Response[str]:
        """Follow a sponsored link."""
        limits.admit_address(request)
        address = network_of(request.client.host) if request.client else ""
        click = ClickRequest(request.method, dict(request.headers), address)
        decision = await rules.decide(token, click, time.time())
        metrics.clicks.labels(decision.outcome, weights_of(decision.version)).inc()
        event = decision.event
        if event is None:
            return _notice(*_NOTICES[decision.outcome])
        if decision.outcome == VALID:
            if event.click_id not in router.clicks:  # the ledger charges a link once, however often it is followed
                metrics.clicked.labels(event.currency, event.model_version).inc(event.price_micros)
                if decision.charges is not None:
                    router.marketplace.accrue_click(decision.charges, event.price_micros, time.time())
            router.clicks.add(event.click_id)
            metrics.cohorts.count_click(
                auction_id=event.auction_id,
                ad_id=event.ad_id,
                issued=decision.issued,
                version=decision.version,
                price=event.price_micros,
                currency=event.currency,
            )
        await _record(router, event)
        return Response("", status_code=302, headers={**_LINK_HEADERS, "Location": decision.landing_url})

    @get(DEMO_PATH + "{ad_id:str}", opt=documented(answer="A page.", media="text/html", secured=False))
    async def demo(request: HttpRequest, ad_id: FromPath[str]) -> Response[str]:
        """Show the landing page of an invented advertiser."""
        limits.admit_address(request)
        found = await rules.find(ad_id)
        if found is None or found[1].landing_url != DEMO_PATH + ad_id:
            return _notice(404, "Unknown advertiser", "This demo page belongs to no ad of the catalogue.")
        campaign, creative = found
        offer = creative.text[:1].upper() + creative.text[1:]
        text = f"{offer}. {campaign.advertiser_id} is an invented advertiser; a real one would have its own page here."
        return _notice(200, creative.title, text)

    return [follow, demo]


async def _record(router: Router, event: Click) -> None:
    try:
        await asyncio.wrap_future(router.events.put_durably(event))
    except AuctionError as error:
        log.error("click.not_recorded", click_id=event.click_id, reason=type(error).__name__)


def _notice(status: int, title: str, text: str) -> Response[str]:
    """Return a small page for a person who followed a link."""
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/assets/style.css">
<body class="notice"><main><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>
<p><a href="/">Back to the chat</a></p></main>
</body></html>"""
    return Response(page, status_code=status, media_type="text/html", headers=_NOTICE_HEADERS)
