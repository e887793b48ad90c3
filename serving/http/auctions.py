"""`/v1/auctions`: the records of this router's newest auctions, for administrators and for the key that asked.

Advertisers have no access: a record shows their competitors' bids.
"""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from serving.accounts.keys import Role
from serving.errors import ApiError
from serving.http.auth import Gate
from serving.http.bodies import HttpRequest, json_response, number, only
from serving.http.documents import documented
from serving.router import Router

READERS = (Role.ADMIN, Role.PUBLISHER)


def auction_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of the list and of one record."""

    @get("/v1/auctions/{auction_id:str}", opt=documented(answer="The full record."))
    async def auction(request: HttpRequest, auction_id: FromPath[str]) -> Response[bytes]:
        """Read one auction: candidates, bids, the reason of every exclusion, propensities, payments.

        Raises:
            ApiError: 404 if this router has no record of this id, or another key owns it.
        """
        caller = await gate.caller(request, *READERS, anonymous=True)
        owned = router.records.get(auction_id)
        if owned is None or not (caller.is_admin or owned.owner == caller.key_id):
            limit = f"this router keeps the newest {router.settings.audited_answers} since its start"
            message = f"auction_id: {auction_id[:64]!r}: {limit}; charges are at /v1/reports/events?auction_id="
            raise ApiError(404, message, "auction_id", "auction_not_found")
        return json_response(msgspec.Raw(await asyncio.to_thread(lambda: msgspec.json.encode(owned.full()))))

    @get(
        "/v1/auctions",
        opt=documented(
            query={"limit": "1 to 200", "cursor": "`cursor` of the previous page"},
            answer="Records without exclusions.",
        ),
    )
    async def auctions(request: HttpRequest) -> Response[bytes]:
        """List the newest auctions, newest first."""
        caller = await gate.caller(request, *READERS, anonymous=True)
        only(request.query_params, {"limit", "cursor"})
        limit = number(request.query_params, "limit", 50, 1, 200)
        owner = None if caller.is_admin else caller.key_id
        found = router.records.newest(owner, request.query_params.get("cursor", ""), limit)
        records = [owned.record for owned in found]
        cursor = records[-1].auction_id if len(records) == limit else ""
        return json_response({"items": records, "cursor": cursor})

    return [auction, auctions]
