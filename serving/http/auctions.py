"""`/v1/auctions`: the records of the newest auctions of this router and, where they are shared, of the others.

Administrators read all of them whole. The key that asked reads its own, without bids and prices. An advertiser reads
those that its campaigns took part in: its own entries with its own bids, and no competitor's. The receipt of an answer
lists what was shown, signed; the same rule decides who may read it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from serving.accounts.keys import Role
from serving.answering.auction_records import OwnedRecord
from serving.answering.receipts import Receipt, receipt_of
from serving.answering.record_views import Owns, own_entries, without_amounts
from serving.database.cursors import read_cursor, write_cursor
from serving.errors import ApiError
from serving.http.auth import Caller, Gate
from serving.http.bodies import HttpRequest, json_response, number, only
from serving.http.documents import documented
from serving.router import Router


def auction_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of the list and of one record."""

    @get("/v1/auctions/{auction_id:str}", opt=documented(answer="The full record."))
    async def auction(request: HttpRequest, auction_id: FromPath[str]) -> Response[bytes]:
        """Read one auction: candidates, exclusions and their reasons, propensities, amounts that the caller may see.

        Raises:
            ApiError: 404 if there is no record of this id, or another key owns it.
        """
        caller = await gate.caller(request, *Role, anonymous=True)
        owned = await router.recorded(auction_id)
        record = None if owned is None else await asyncio.to_thread(_seen, owned, caller, router)
        if record is None:
            raise ApiError(404, _unknown(auction_id, router), "auction_id", "auction_not_found")
        return json_response(record)

    @get(
        "/v1/auctions",
        opt=documented(
            query={"limit": "1 to 200", "cursor": "`cursor` of the previous page"},
            answer="Records without exclusions.",
        ),
    )
    async def auctions(request: HttpRequest) -> Response[bytes]:
        """List the newest auctions, newest first."""
        caller = await gate.caller(request, Role.ADMIN, Role.PUBLISHER, anonymous=True)
        only(request.query_params, {"limit", "cursor"})
        limit = number(request.query_params, "limit", 50, 1, 200)
        owner = None if caller.is_admin else caller.key_id
        signer, given = router.database.cursors, request.query_params.get("cursor", "")
        before = read_cursor(signer, "auctions", given, str) if given else ""
        found = await router.newest_records(owner, before, limit)
        cursor = write_cursor(signer, "auctions", found[-1].record.auction_id) if len(found) == limit else ""
        owns = _owns(caller, router)
        return json_response({"items": [without_amounts(owned.record, owns) for owned in found], "cursor": cursor})

    @get("/v1/auctions/{auction_id:str}/receipt", opt=documented(answer="The receipt, and the same as a signed JWS."))
    async def receipt(request: HttpRequest, auction_id: FromPath[str]) -> Response[bytes]:
        """Read the disclosure receipt of an answer; an advertiser's names its own ad alone.

        Raises:
            ApiError: 404 if there is no record of this id, or it shows nothing of the caller's.
        """
        caller = await gate.caller(request, *Role, anonymous=True)
        owned = await router.recorded(auction_id)
        found = None if owned is None else _disclosed(owned, caller, router)
        if found is None:
            raise ApiError(404, _unknown(auction_id, router), "auction_id", "auction_not_found")
        return json_response({"receipt": found, "jws": router.receipts.sign(found)})

    @get("/.well-known/jwks.json", opt=documented(answer="A JSON Web Key Set.", secured=False))
    async def receipt_keys() -> Response[bytes]:
        """Read the public keys that verify receipts."""
        return json_response(router.receipts.public_keys())

    return [auction, auctions, receipt, receipt_keys]


def _unknown(auction_id: str, router: Router) -> str:
    kept_s, newest = router.settings.shared_records_s, router.settings.audited_answers
    limit = f"this router keeps the newest {newest} since its start"
    limit += f", and those of all routers for {kept_s:.0f} s" if kept_s else ""
    return f"auction_id: {auction_id[:64]!r}: {limit}; charges are at /v1/reports/events?auction_id="


def _disclosed(owned: OwnedRecord, caller: Caller, router: Router) -> Receipt | None:
    """Return a record's receipt as the caller sees it; None where it may not see it at all."""
    now = datetime.now(UTC)
    if caller.is_of_advertiser:
        own = receipt_of(owned.record, _owns(caller, router), now)
        return own if own.ads else None
    if not caller.is_admin and owned.owner != caller.key_id:
        return None
    return receipt_of(owned.record, lambda _: True, now)


def _seen(owned: OwnedRecord, caller: Caller, router: Router) -> dict[str, Any] | None:
    """Return what a caller sees of a record; None where it may not see it at all."""
    if caller.is_of_advertiser:
        return own_entries(owned.full(), _owns(caller, router))
    if not caller.is_admin and owned.owner != caller.key_id:
        return None
    return without_amounts(owned.full(), _owns(caller, router))


def _owns(caller: Caller, router: Router) -> Owns:
    """Return the rule by which campaigns are the caller's own: all of them to an administrator."""

    def is_own(campaign_id: str) -> bool:
        campaign = router.marketplace.index.get(campaign_id)
        return campaign is not None and campaign.advertiser_id == caller.advertiser_id

    if caller.is_admin:
        return lambda _: True
    return is_own if caller.is_of_advertiser else lambda _: False
