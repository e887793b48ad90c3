"""`/v1/changes` and `/v1/campaigns/{id}/changes`: who changed what of campaigns, accounts and keys.

An advertiser reads its own history. Changes by the market's staff are in it, without the names of the staff.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from serving.accounts.keys import Role
from serving.campaigns.changes import Actor, Change, Subject, history
from serving.database.cursors import Page
from serving.http.auth import READERS, Caller, Gate
from serving.http.bodies import HttpRequest, choice, json_response, number, only
from serving.http.campaigns import own_campaign
from serving.http.documents import documented
from serving.router import Router

_PAGED = {"limit": "1 to 1000", "cursor": "`cursor` of the previous page"}
_FILTERS = {
    "subject": "campaign, account or key",
    "subject_id": "the campaign's id, the account's currency, or the key's id",
    "advertiser_id": "administrators only",
}
_ANSWER = "Changes, newest first: who, when, and each field's old and new value; and the next cursor."


def change_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of histories."""

    async def page(caller: Caller, asked: Mapping[str, str], **filters: Any) -> Response[bytes]:
        limit, cursor = number(asked, "limit", 100, 1, 1_000), asked.get("cursor", "")
        found = await asyncio.to_thread(lambda: history(router.database, cursor=cursor, limit=limit, **filters))
        return json_response(_shown(caller, found))

    @get("/v1/changes", opt=documented(query=_FILTERS | _PAGED, answer=_ANSWER))
    async def list_changes(request: HttpRequest) -> Response[bytes]:
        """List changes: an administrator's all, an advertiser's own."""
        caller, asked = await gate.caller(request, *READERS), request.query_params
        only(asked, {*_FILTERS, *_PAGED})
        return await page(
            caller,
            asked,
            advertiser_id=caller.owner(asked.get("advertiser_id", "")),
            subject=choice(asked, "subject", Subject),
            subject_id=asked.get("subject_id", ""),
        )

    @get("/v1/campaigns/{campaign_id:str}/changes", opt=documented(query=_PAGED, answer=_ANSWER))
    async def list_campaign_changes(request: HttpRequest, campaign_id: FromPath[str]) -> Response[bytes]:
        """List the changes of one campaign and its creatives."""
        caller, asked = await gate.caller(request, *READERS), request.query_params
        only(asked, set(_PAGED))
        await own_campaign(router.campaigns, caller, campaign_id)
        return await page(caller, asked, subject=Subject.CAMPAIGN, subject_id=campaign_id)

    return [list_changes, list_campaign_changes]


def _shown(caller: Caller, found: Page[Change]) -> Page[Change]:
    """Return the changes as the caller may see them."""
    if caller.is_admin:
        return found
    items = tuple(
        msgspec.structs.replace(one, by=Actor(role=one.by.role)) if one.by.role == Role.ADMIN else one
        for one in found.items
    )
    return Page[Change](items=items, cursor=found.cursor)
