"""`/v1/deliveries` and `/v1/campaigns/{id}/delivery`: live spend and pacing of campaigns.

Light enough to be asked every few seconds beside the list of campaigns, whose filters and pages it shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from mechanism.types import Micros
from serving.auction.pacing import day_plan
from serving.campaigns.snapshots import spends_of
from serving.campaigns.types import Campaign, CampaignState, Spend
from serving.database.cursors import Page
from serving.database.engine import Database
from serving.http.auth import Gate
from serving.http.campaigns import BOOKERS, FILTERS, own, page_for
from serving.http.documents import documented
from serving.router import Router


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How a campaign is doing: spend by the ledger, today being the campaign's own day; of that day's
    `allowance_micros` (None: unlimited) how much an even course has spent by now (`planned_micros`; None: not spread
    evenly); and in which share of the auctions that it fits it takes part on this router."""

    campaign_id: str
    version: int
    state: CampaignState
    spend: Spend
    daily_budget_micros: Micros | None
    total_budget_micros: Micros | None
    allowance_micros: Micros | None
    planned_micros: Micros | None
    participation: float


def delivery_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers of one delivery and of a page of them."""
    store, market = router.campaigns, router.marketplace

    async def deliveries(campaigns: Sequence[Campaign]) -> tuple[Delivery, ...]:
        shares = [market.participation(one.id) if market.index.get(one.id) else 0.0 for one in campaigns]
        return await asyncio.to_thread(_deliveries, router.database, campaigns, shares)

    @get("/v1/campaigns/{campaign_id:str}/delivery", opt=documented(answer="Spend and pacing."))
    async def delivery(request: Request[Any, Any, Any], campaign_id: FromPath[str]) -> Response[bytes]:
        """Spend and pacing of a campaign."""
        campaign = await own(store, await gate.caller(request, *BOOKERS), campaign_id)
        return _json((await deliveries([campaign]))[0])

    @get(
        "/v1/deliveries",
        opt=documented(query=FILTERS, answer="Spend and pacing, in the order of the campaigns, and the next cursor."),
    )
    async def list_deliveries(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Spend and pacing of the campaigns that the same query lists."""
        caller = await gate.caller(request, *BOOKERS)
        page = await asyncio.to_thread(page_for, store, caller, request.query_params)
        return _json(Page[Delivery](items=await deliveries(page.items), cursor=page.cursor))

    return [delivery, list_deliveries]


def _deliveries(
    database: Database, campaigns: Sequence[Campaign], participation: Sequence[float]
) -> tuple[Delivery, ...]:
    now = datetime.now(UTC)
    spends = spends_of(database, [campaign.id for campaign in campaigns], now)
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
                participation=share,
            )
        )
    return tuple(found)


def _json(value: Any) -> Response[bytes]:
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"Cache-Control": "no-store"})
