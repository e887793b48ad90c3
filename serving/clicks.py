"""`/c/{token}` and `/v1/ledger`: a click is charged once and redirected; a person can find its charge.

The destination comes from the catalogue alone, so that no token, however it was made, leads anywhere else.
"""

from __future__ import annotations

import html
import time
from typing import Any

import msgspec
import structlog
from litestar import Request, Response, get, route
from litestar.handlers import HTTPRouteHandler
from sqlalchemy.exc import SQLAlchemyError

from serving.catalogue import Catalogue, Listing
from serving.errors import bad_request
from serving.ledger import Ledger
from serving.tokens import Click, TokenError, TokenExpired, TokenSigner

log = structlog.get_logger(__name__)

_LINK_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex, nofollow"}
MOST_CHARGES = 1_000


def click_routes(catalogue: Catalogue, signer: TokenSigner, ledger: Ledger) -> list[HTTPRouteHandler]:
    """Handlers of the click redirect, the ledger's report and the demo landing pages."""

    @route("/c/{token:str}", http_method=["GET", "HEAD"], sync_to_thread=True)
    def follow(request: Request[Any, Any, Any]) -> Response[str]:
        try:
            click = signer.read(str(request.path_params["token"]), time.time())
        except TokenExpired:
            return _notice(410, "This sponsored link has expired", "Ask your question again to get a fresh one.")
        except TokenError:
            return _notice(404, "This is not a valid sponsored link", "It was altered, or another server made it.")
        listing = catalogue.get(click.ad_id)
        if listing is None:
            return _notice(410, "This offer is no longer available", "The advertiser has taken it back.")
        if _is_a_person(request):
            _charge(ledger, click, listing)
        return Response("", status_code=302, headers={**_LINK_HEADERS, "Location": listing.ad.landing_url})

    @get("/v1/ledger", sync_to_thread=True)
    def report(request: Request[Any, Any, Any]) -> Response[bytes]:
        asked = request.query_params
        limit = asked.get("limit", "100")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= MOST_CHARGES):
            raise bad_request("limit", limit, f"give a whole number from 1 to {MOST_CHARGES}")
        found = ledger.report(int(limit), asked.get("click_id", ""), asked.get("auction_id", ""))
        headers = {"Cache-Control": "no-store"}
        return Response(msgspec.json.encode(found), media_type="application/json", headers=headers)

    @get("/demo/{ad_id:str}", sync_to_thread=False)
    def demo(request: Request[Any, Any, Any]) -> Response[str]:
        listing = catalogue.get(str(request.path_params["ad_id"]))
        if listing is None:
            return _notice(404, "There is no such advertiser", "This demo page belongs to no ad of the catalogue.")
        ad = listing.ad
        offer = ad.text[:1].upper() + ad.text[1:]
        told = f"{offer}. {ad.advertiser} is an invented advertiser; here its own site would open."
        return _notice(200, ad.title, told)

    return [follow, report, demo]


def _charge(ledger: Ledger, click: Click, listing: Listing) -> None:
    """Charges the click. A ledger that cannot be written keeps nobody from where they want to go; the log names the
    click, and following the link again charges it."""
    try:
        new = ledger.charge(click, listing.ad.advertiser)
    except SQLAlchemyError as error:
        log.error("charge failed", click_id=click.id, reason=type(error).__name__)
        return
    event = "charged" if new else "already charged"
    log.info(event, click_id=click.id, amount_micros=click.price, currency=click.currency)


def _is_a_person(request: Request[Any, Any, Any]) -> bool:
    """False for what browsers and link checkers do by themselves: HEAD requests and announced prefetches."""
    purpose = " ".join(request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose", "X-Moz")).lower()
    return request.method == "GET" and "prefetch" not in purpose and "preview" not in purpose


def _notice(status: int, title: str, text: str) -> Response[str]:
    """A small page for a person who followed a link."""
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/assets/style.css">
<body class="notice"><main><h1>{html.escape(title)}</h1><p>{html.escape(text)}</p>
<p><a href="/">Back to the chat</a></p></main>
</body></html>"""
    return Response(page, status_code=status, media_type="text/html; charset=utf-8", headers=_LINK_HEADERS)
