"""`/v1/campaigns`, `/v1/creatives/{id}/review` and `/v1/deliveries`: create, change, pause, end, review, follow.

An advertiser reads and changes its own campaigns only; another advertiser's campaign is a 404. Deliveries are cheap
enough to be polled every few seconds; they share the filters and pages of the list of campaigns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.accounts.keys import Role
from serving.auction.pacing import day_plan
from serving.campaigns.funds import account_of
from serving.campaigns.input import CampaignInput
from serving.campaigns.screening import Names
from serving.campaigns.snapshots import left_of, spends_of
from serving.campaigns.storage import CampaignFilter, CampaignStore, NotFound
from serving.campaigns.types import Campaign, CampaignState, Priority, ReviewState, Spend
from serving.campaigns.validation import BadCampaign, checked
from serving.database.cursors import Page
from serving.database.engine import Database
from serving.errors import ApiError, BadFields, BadRequest
from serving.http.auth import MANAGERS, READERS, Caller, Gate
from serving.http.bodies import HttpRequest, choice, convert, decode_body, decode_object, json_response, number, only
from serving.http.documents import documented
from serving.http.idempotency import attempt, replay
from serving.router import Router
from serving.settings import ServeSettings

log = structlog.get_logger(__name__)

FILTERS = {
    "state": "active, paused or ended",
    "category": "the whole category",
    "text": "part of the name, upper or lower case",
    "advertiser_id": "administrators only",
    "limit": "1 to 1000",
    "cursor": "`cursor` of the previous page",
}


class CampaignPatch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a campaign to change, each as a whole, and the `version` that the campaign was read at.

    `creatives` is the complete new list; a creative that is sent unchanged with its `id` keeps its review.
    """

    version: int


class VersionOnly(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of state; with a `version`, only if the campaign still has it."""

    version: int | None = None


class ReviewInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The review of a creative; with a `version`, only if its campaign still has it."""

    review: Literal["approved", "rejected", "pending"]
    note: str = ""
    version: int | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """Spend and pacing of a campaign.

    `spend` is the ledger's; today is the campaign's own day. `allowance_micros` is what it may spend today (None:
    unlimited), `planned_micros` how much of it even pacing has spent by now (None: not paced evenly),
    `available_micros` what is left of its advertiser's account (None: unlimited), `participation` the share of its
    auctions that it takes part in on this router.
    """

    campaign_id: str
    version: int
    state: CampaignState
    spend: Spend
    daily_budget_micros: Micros | None
    total_budget_micros: Micros | None
    allowance_micros: Micros | None
    planned_micros: Micros | None
    available_micros: Micros | None
    participation: float


_CAMPAIGN = msgspec.json.Decoder(CampaignInput)
_VERSION = msgspec.json.Decoder(VersionOnly)
_REVIEW = msgspec.json.Decoder(ReviewInput)
_FIELDS = CampaignInput.__struct_fields__


def campaign_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of campaigns, reviews and deliveries."""
    store, market, settings = router.campaigns, router.marketplace, router.settings

    @post("/v1/campaigns", status_code=201, opt=documented(CampaignInput, answer="The campaign as stored."))
    async def create_campaign(request: HttpRequest) -> Response[bytes]:
        """Create a campaign; its creatives are served after their review."""
        caller = await gate.caller(request, *MANAGERS)
        async with attempt(router.idempotency, request, caller) as once:
            if once.stored is not None:
                return replay(once.stored)
            given = booked_for(caller, decode_body(await request.body(), _CAMPAIGN))
            now = datetime.now(UTC)
            known = tuple(market.index)
            checked_ = await asyncio.to_thread(lambda: checked_fields(given, now, Names(known), settings))
            stored = await asyncio.to_thread(store.create, checked_, now, once.recorder(201), by=caller.actor)
        log.info("campaign.created", campaign_id=stored.id, advertiser_id=stored.advertiser_id)
        return json_response(stored, 201)

    @get("/v1/campaigns", opt=documented(query=FILTERS, answer="Campaigns, newest first, and the next cursor."))
    async def list_campaigns(request: HttpRequest) -> Response[bytes]:
        """List campaigns."""
        caller = await gate.caller(request, *READERS)
        return json_response(await asyncio.to_thread(_page, store, caller, request.query_params))

    @get("/v1/campaigns/{campaign_id:str}", opt=documented(answer="The campaign."))
    async def get_campaign(request: HttpRequest, campaign_id: FromPath[str]) -> Response[bytes]:
        """Read one campaign."""
        return json_response(await own_campaign(store, await gate.caller(request, *READERS), campaign_id))

    @patch("/v1/campaigns/{campaign_id:str}", opt=documented(CampaignPatch, answer="The campaign as stored."))
    async def update_campaign(request: HttpRequest, campaign_id: FromPath[str]) -> Response[bytes]:
        """Change a campaign, if it was not changed since it was read."""
        caller = await gate.caller(request, *MANAGERS)
        async with attempt(router.idempotency, request, caller) as once:
            if once.stored is not None:
                return replay(once.stored)
            changes = decode_object(await request.body())
            version = convert(changes, CampaignPatch).version
            old = await own_campaign(store, caller, campaign_id)
            given = booked_for(caller, _changed(old, changes), old.priority)
            now = datetime.now(UTC)
            # The landing pages that the campaign has may stay, also those of a catalogue, which lie on this server.
            pages = frozenset(creative.landing_url for creative in old.creatives)
            known = tuple(market.index)
            checked_ = await asyncio.to_thread(lambda: checked_fields(given, now, Names(known), settings, pages))
            new = msgspec.structs.replace(checked_, version=version)
            stored = await asyncio.to_thread(store.update, new, now, once.recorder(200), by=caller.actor)
        log.info("campaign.changed", campaign_id=campaign_id, version=stored.version)
        return json_response(stored)

    def set_state(state: CampaignState, name: str, summary: str) -> HTTPRouteHandler:
        async def handler(request: HttpRequest, campaign_id: FromPath[str]) -> Response[bytes]:
            caller = await gate.caller(request, *MANAGERS)
            async with attempt(router.idempotency, request, caller) as once:
                if once.stored is not None:
                    return replay(once.stored)
                body = await request.body()
                version = decode_body(body, _VERSION).version if body.strip() else None
                await own_campaign(store, caller, campaign_id)
                now, also = datetime.now(UTC), once.recorder(200)
                stored = await asyncio.to_thread(
                    lambda: store.set_state(campaign_id, state, now, version=version, also=also, by=caller.actor)
                )
            log.info("campaign.state_set", campaign_id=campaign_id, state=state.value)
            return json_response(stored)

        handler.__doc__, handler.__name__ = summary, f"{name}_campaign"
        path = f"/v1/campaigns/{{campaign_id:str}}/{name}"
        return post(path, status_code=200, opt=documented(VersionOnly, answer="The campaign as stored."))(handler)

    @post(
        "/v1/creatives/{creative_id:str}/review",
        status_code=200,
        opt=documented(ReviewInput, answer="The creative's campaign as stored."),
    )
    async def review_creative(request: HttpRequest, creative_id: FromPath[str]) -> Response[bytes]:
        """Approve or reject a creative; only approved ones are served.

        Raises:
            BadRequest: if the note is too long.
        """
        caller = await gate.caller(request, Role.ADMIN)
        async with attempt(router.idempotency, request, caller) as once:
            if once.stored is not None:
                return replay(once.stored)
            given = decode_body(await request.body(), _REVIEW)
            if len(given.note) > 1_000:
                raise BadRequest("note", given.note, "give at most 1000 characters")
            review, now, also = ReviewState(given.review), datetime.now(UTC), once.recorder(200)
            stored = await asyncio.to_thread(
                lambda: store.review(
                    creative_id, review, now, note=given.note, version=given.version, also=also, by=caller.actor
                )
            )
        log.info("creative.reviewed", creative_id=creative_id, review=review.value)
        return json_response(stored)

    async def deliveries(campaigns: Sequence[Campaign]) -> tuple[Delivery, ...]:
        shares = [market.participation(one.id) if market.index.get(one.id) else 0.0 for one in campaigns]
        return await asyncio.to_thread(_deliveries, router.database, campaigns, shares)

    @get("/v1/campaigns/{campaign_id:str}/delivery", opt=documented(answer="Spend and pacing."))
    async def delivery(request: HttpRequest, campaign_id: FromPath[str]) -> Response[bytes]:
        """Read spend and pacing of a campaign."""
        campaign = await own_campaign(store, await gate.caller(request, *READERS), campaign_id)
        return json_response((await deliveries([campaign]))[0])

    @get(
        "/v1/deliveries",
        opt=documented(query=FILTERS, answer="Spend and pacing, in the order of the campaigns, and the next cursor."),
    )
    async def list_deliveries(request: HttpRequest) -> Response[bytes]:
        """List spend and pacing of the campaigns that the same query lists."""
        caller = await gate.caller(request, *READERS)
        page = await asyncio.to_thread(_page, store, caller, request.query_params)
        return json_response(Page[Delivery](items=await deliveries(page.items), cursor=page.cursor))

    return [
        create_campaign,
        list_campaigns,
        get_campaign,
        update_campaign,
        set_state(CampaignState.PAUSED, "pause", "Pause a campaign."),
        set_state(CampaignState.ACTIVE, "resume", "Resume a paused campaign."),
        set_state(CampaignState.ENDED, "end", "End a campaign; it cannot be resumed."),
        review_creative,
        delivery,
        list_deliveries,
    ]


async def own_campaign(store: CampaignStore, caller: Caller, campaign_id: str) -> Campaign:
    """Return a campaign of the caller.

    Raises:
        NotFound: if there is none with this id, or it is another advertiser's.
    """
    campaign = await asyncio.to_thread(store.get, campaign_id)
    if caller.is_of_advertiser and campaign.advertiser_id != caller.advertiser_id:
        raise NotFound("campaign", campaign_id, "no campaign has this id")
    return campaign


def _changed(old: Campaign, changes: Mapping[str, Any]) -> CampaignInput:
    """Return the whole campaign with the changes of a patch.

    Raises:
        BadRequest: if the id would change.
    """
    if changes.get("id", old.id) != old.id:
        raise BadRequest("id", changes["id"], "it is fixed: create another campaign instead")
    whole = {name: value for name, value in msgspec.to_builtins(old).items() if name in _FIELDS}
    writable = ("id", "title", "text", "landing_url", "image_url", "video_url")
    whole["creatives"] = [{name: one[name] for name in writable} for one in whole["creatives"]]
    return convert(whole | {name: value for name, value in changes.items() if name != "version"}, CampaignInput)


def _page(store: CampaignStore, caller: Caller, asked: Mapping[str, str]) -> Page[Campaign]:
    """Return the page of the caller's campaigns that the query FILTERS select."""
    only(asked, set(FILTERS))
    advertiser = asked.get("advertiser_id", "")
    if caller.is_of_advertiser:
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


def booked_for(caller: Caller, given: CampaignInput, priority: Priority = Priority.STANDARD) -> CampaignInput:
    """Return the body with its advertiser: an advertiser's key books for itself, an administrator's for the one named.

    `priority` is what an advertiser's campaign may have: that of a campaign that it changes.

    Raises:
        ApiError: 403 if an advertiser's key names another advertiser or sets another priority.
    """
    if caller.is_admin:
        return given
    fault: InputError | None = None
    if given.advertiser_id not in ("", caller.advertiser_id):
        fault = InputError("advertiser_id", given.advertiser_id, "leave it out: this key books for itself alone")
    elif given.priority is not priority:
        fault = InputError("priority", given.priority.value, "leave it out: only an administrator sets it")
    if fault is not None:
        raise ApiError(403, str(fault), fault.place, "forbidden", [fault])
    return msgspec.structs.replace(given, advertiser_id=caller.advertiser_id)


def checked_fields(
    given: CampaignInput, now: datetime, names: Names, market: ServeSettings, known_pages: frozenset[str] = frozenset()
) -> Campaign:
    """Return the checked campaign; landing pages are checked unless they are among `known_pages`.

    Call it on a thread, and make `names` there: both walk all campaigns of the market.

    Raises:
        BadFields: naming all faults.
    """
    try:
        return checked(given, now, known_pages, names, market.bid_scale, market.block_advertisers)
    except BadCampaign as error:
        raise BadFields(error.faults) from error


def _deliveries(
    database: Database, campaigns: Sequence[Campaign], participation: Sequence[float]
) -> tuple[Delivery, ...]:
    now = datetime.now(UTC)
    spends = spends_of(database, [campaign.id for campaign in campaigns], now)
    left = left_of(database, {account_of(campaign) for campaign in campaigns})
    found = []
    for campaign, share in zip(campaigns, participation, strict=True):
        spend = spends[campaign.id]
        plan = day_plan(campaign, spend, now)
        found.append(
            Delivery(
                campaign_id=campaign.id,
                version=campaign.version,
                state=campaign.state,
                spend=spend,
                daily_budget_micros=campaign.daily_budget_micros,
                total_budget_micros=campaign.total_budget_micros,
                allowance_micros=plan.allowance,
                planned_micros=plan.planned,
                available_micros=left.get(account_of(campaign)),
                participation=share,
            )
        )
    return tuple(found)
