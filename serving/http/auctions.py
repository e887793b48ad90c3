"""`/v1/auctions`: the records of this router's newest auctions, for administrators and for who asked.

Advertisers are kept out: a record shows what their competitors bid.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from serving.accounts.keys import Role
from serving.errors import ApiError
from serving.http.auth import Caller, Gate
from serving.http.bodies import number, only
from serving.http.documents import documented
from serving.router import Router

READERS = (Role.ADMIN, Role.PUBLISHER)


def auction_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers of the list and of one record."""

    @get("/v1/auctions/{auction_id:str}", opt=documented(answer="The full record."))
    async def auction(request: Request[Any, Any, Any], auction_id: FromPath[str]) -> Response[bytes]:
        """One auction: candidates, bids, the reason of every exclusion, propensities, payments."""
        caller = await gate.caller(request, *READERS, anonymous=True)
        kept = router.records.get(auction_id)
        if kept is None or not (caller.is_admin or kept.owner == caller.key_id):
            kept_here = f"this router keeps the newest {router.settings.audited_answers} since its start"
            message = f"auction_id: {auction_id[:64]!r}: {kept_here}; charges are at /v1/reports/events?auction_id="
            raise ApiError(404, message, "auction_id", "auction_not_found")
        return _json(await asyncio.to_thread(lambda: msgspec.json.encode(kept.full())))

    @get(
        "/v1/auctions",
        opt=documented(
            query={"limit": "1 to 200", "cursor": "that of the page before"}, answer="Records without exclusions."
        ),
    )
    async def auctions(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The newest auctions, newest first."""
        caller = await gate.caller(request, *READERS, anonymous=True)
        only(request.query_params, {"limit", "cursor"})
        limit = number(request.query_params, "limit", 50, 1, 200)
        found = router.records.newest(_owner(caller), request.query_params.get("cursor", ""), limit)
        records = [kept.record for kept in found]
        cursor = records[-1].auction_id if len(records) == limit else ""
        return _json(msgspec.json.encode({"items": records, "cursor": cursor}))

    return [auction, auctions]


def _owner(caller: Caller) -> str | None:
    """Whose records a caller may list; None for everybody's."""
    return None if caller.is_admin else caller.key_id


def _json(body: bytes) -> Response[bytes]:
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})
