"""`/v1/campaigns` and `/v1/creatives/{id}/review`: booking, changing, pausing, ending and reviewing.

An advertiser sees and changes its own campaigns only; somebody else's is not there for it (404).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog
from litestar import Request, Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from serving.accounts.keys import Role
from serving.campaigns.checks import BadCampaign, checked
from serving.campaigns.input import CampaignInput
from serving.campaigns.storage import CampaignFilter, CampaignStore, NotFound
from serving.campaigns.types import Campaign, CampaignState, ReviewState
from serving.database.cursors import Page
from serving.errors import ApiError, bad_fields, bad_request
from serving.http.auth import Caller, Gate
from serving.http.bodies import choice, convert, decode_body, decode_object, number, only
from serving.http.documents import documented
from serving.router import Router

log = structlog.get_logger(__name__)

BOOKERS = (Role.ADMIN, Role.ADVERTISER)
FILTERS = {
    "state": "active, paused or ended",
    "category": "exactly this category",
    "text": "in the name, in any case",
    "advertiser_id": "administrators only",
    "limit": "1 to 1000",
    "cursor": "that of the page before",
}


class CampaignPatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to change: any field of a campaign, whole, and the `version` that it was read at. Creatives are the list
    as it shall be; one whose `id` is known and that is the same keeps its review."""

    version: int


class VersionOnly(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With a `version`, only if that is still the campaign's."""

    version: int | None = None


class ReviewInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The verdict on a creative; with a `version`, on what was seen in that version of its campaign only."""

    review: Literal["approved", "rejected", "pending"]
    note: str = ""
    version: int | None = None


_CAMPAIGN = msgspec.json.Decoder(CampaignInput)
_VERSION = msgspec.json.Decoder(VersionOnly)
_REVIEW = msgspec.json.Decoder(ReviewInput)
_FIELDS = CampaignInput.__struct_fields__


def campaign_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers of campaigns and reviews."""
    store = router.campaigns

    @post("/v1/campaigns", status_code=201, opt=documented(CampaignInput, answer="The campaign as stored."))
    async def create_campaign(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Book a campaign; its creatives wait for their review."""
        caller = await gate.caller(request, *BOOKERS)
        given = _for(caller, decode_body(await request.body(), _CAMPAIGN))
        now = datetime.now(UTC)
        stored = await asyncio.to_thread(store.create, _checked(given, now), now)
        log.info("campaign created", campaign_id=stored.id, advertiser_id=stored.advertiser_id)
        return _campaign(stored, 201)

    @get("/v1/campaigns", opt=documented(query=FILTERS, answer="Campaigns, newest first, and the next cursor."))
    async def list_campaigns(request: Request[Any, Any, Any]) -> Response[bytes]:
        """List campaigns."""
        caller = await gate.caller(request, *BOOKERS)
        return _json(await asyncio.to_thread(page_for, store, caller, request.query_params))

    @get("/v1/campaigns/{campaign_id:str}", opt=documented(answer="The campaign."))
    async def get_campaign(request: Request[Any, Any, Any], campaign_id: FromPath[str]) -> Response[bytes]:
        """One campaign."""
        return _campaign(await own(store, await gate.caller(request, *BOOKERS), campaign_id))

    @patch("/v1/campaigns/{campaign_id:str}", opt=documented(CampaignPatch, answer="The campaign as stored."))
    async def update_campaign(request: Request[Any, Any, Any], campaign_id: FromPath[str]) -> Response[bytes]:
        """Change a campaign that nobody has changed since it was read."""
        caller = await gate.caller(request, *BOOKERS)
        changes = decode_object(await request.body())
        version = convert(changes, CampaignPatch).version
        old = await own(store, caller, campaign_id)
        if "id" in changes and changes["id"] != campaign_id:
            raise bad_request("id", changes["id"], "it is fixed: create another campaign instead")
        whole = {name: value for name, value in msgspec.to_builtins(old).items() if name in _FIELDS}
        writable = ("id", "title", "text", "landing_url", "image_url", "video_url")
        whole["creatives"] = [{name: one[name] for name in writable} for one in whole["creatives"]]
        whole |= {name: value for name, value in changes.items() if name != "version"}
        given = _for(caller, convert(whole, CampaignInput))
        now = datetime.now(UTC)
        # An end in the past may stay as it is; the internal landing page of a catalogue's ad as well.
        pages = {creative.landing_url for creative in old.creatives}
        new = msgspec.structs.replace(_checked(given, now, pages), version=version)
        stored = await asyncio.to_thread(store.update, new, now)
        log.info("campaign changed", campaign_id=campaign_id, version=stored.version)
        return _campaign(stored)

    def changing(state: CampaignState, name: str, text: str) -> HTTPRouteHandler:
        async def handler(request: Request[Any, Any, Any], campaign_id: FromPath[str]) -> Response[bytes]:
            caller = await gate.caller(request, *BOOKERS)
            body = await request.body()
            version = decode_body(body, _VERSION).version if body.strip() else None
            await own(store, caller, campaign_id)
            now = datetime.now(UTC)
            stored = await asyncio.to_thread(lambda: store.set_state(campaign_id, state, now, version=version))
            log.info("campaign state set", campaign_id=campaign_id, state=state.value)
            return _campaign(stored)

        handler.__doc__, handler.__name__ = text, f"{name}_campaign"
        path = f"/v1/campaigns/{{campaign_id:str}}/{name}"
        return post(path, status_code=200, opt=documented(VersionOnly, answer="The campaign as stored."))(handler)

    @post(
        "/v1/creatives/{creative_id:str}/review",
        status_code=200,
        opt=documented(ReviewInput, answer="The creative's campaign as stored."),
    )
    async def review_creative(request: Request[Any, Any, Any], creative_id: FromPath[str]) -> Response[bytes]:
        """Approve or reject a creative; only an approved one is served."""
        await gate.caller(request, Role.ADMIN)
        given = decode_body(await request.body(), _REVIEW)
        if len(given.note) > 1_000:
            raise bad_request("note", given.note, "give at most 1000 characters")
        review, now = ReviewState(given.review), datetime.now(UTC)
        stored = await asyncio.to_thread(
            lambda: store.review(creative_id, review, now, note=given.note, version=given.version)
        )
        log.info("creative reviewed", creative_id=creative_id, review=review.value)
        return _campaign(stored)

    return [
        create_campaign,
        list_campaigns,
        get_campaign,
        update_campaign,
        changing(CampaignState.PAUSED, "pause", "Pause a campaign."),
        changing(CampaignState.ACTIVE, "resume", "Let a paused campaign take part again."),
        changing(CampaignState.ENDED, "end", "End a campaign for good."),
        review_creative,
    ]


async def own(store: CampaignStore, caller: Caller, campaign_id: str) -> Campaign:
    """A campaign that the caller may see. Raises NotFound for any other."""
    campaign = await asyncio.to_thread(store.get, campaign_id)
    if caller.role is Role.ADVERTISER and campaign.advertiser_id != caller.advertiser_id:
        raise NotFound("campaign", campaign_id, "there is no such campaign")
    return campaign


def page_for(store: CampaignStore, caller: Caller, asked: Mapping[str, str]) -> Page[Campaign]:
    """The page that FILTERS ask for, of what the caller may see. Raises ApiError for a filter that is wrong."""
    only(asked, set(FILTERS))
    advertiser = asked.get("advertiser_id", "")
    if caller.role is Role.ADVERTISER:
        if advertiser not in ("", caller.advertiser_id):
            return Page[Campaign](items=())
        advertiser = caller.advertiser_id
    wanted = CampaignFilter(
        advertiser_id=advertiser,
        state=choice(asked, "state", CampaignState),
        category=asked.get("category", ""),
        text=asked.get("text", ""),
    )
    return store.page(wanted, asked.get("cursor", ""), number(asked, "limit", 50, 1, 1_000))


def _for(caller: Caller, given: CampaignInput) -> CampaignInput:
    """The body with its advertiser: an advertiser books for itself, an administrator says for whom."""
    if caller.role is not Role.ADVERTISER:
        return given
    if given.advertiser_id not in ("", caller.advertiser_id):
        message = f"advertiser_id: {given.advertiser_id[:80]!r}: leave it out: this key books for itself alone"
        raise ApiError(403, message, "advertiser_id", "forbidden")
    return msgspec.structs.replace(given, advertiser_id=caller.advertiser_id)


def _checked(given: CampaignInput, now: datetime, pages: set[str] | None = None) -> Campaign:
    try:
        return checked(given, now, pages or ())
    except BadCampaign as error:
        raise bad_fields(error.faults) from error


def _campaign(campaign: Campaign, status: int = 200) -> Response[bytes]:
    return _json(campaign, status)


def _json(value: Any, status: int = 200) -> Response[bytes]:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)
