"""`/v1/reports`: revenue, impressions and clicks by group, as JSON or CSV; the events behind each line; time series."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec.structs import replace

from serving.database.cursors import Page
from serving.errors import BadRequest
from serving.http.auth import READERS, Caller, Gate
from serving.http.bodies import Format, HttpRequest, choice, csv_response, json_response, number, only
from serving.http.documents import documented
from serving.reports.reports import (
    Dimension,
    Line,
    Query,
    Record,
    as_csv,
    as_json,
    charges_of,
    events_of,
    report,
    totals,
)
from serving.reports.series import MOST_STEPS, Answers, Point, Step, Window, answers, points
from serving.router import Router

_WITHIN = {
    "first_day": "ISO date, in the campaigns' time zones",
    "last_day": "ISO date, inclusive",
    "campaign": "only this campaign",
    "advertiser_id": "administrators only",
}
_REPORT = {"group_by": f"any of {', '.join(Dimension)}, separated by commas", "format": "json or csv"} | _WITHIN
_TRACE = (
    {dimension.value: "the line's value, if the report is grouped by it" for dimension in Dimension}
    | {"currency": "the line's", "auction_id": "in place of a line: one auction's charges", "limit": "1 to 1000"}
    | {"cursor": "`cursor` of the previous page"}
    | _WITHIN
)

_SERIES = {
    "step": "hour or day, in UTC",
    "count": f"number of steps up to now: 1 to {MOST_STEPS}, 24 if left out",
    "model_version": "only this version",
    "advertiser_id": "administrators only",
}


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over time. `starts` are all steps, also those without figures.

    `answers` (those that had candidates), `ad_load` and `target` (of the ad load, in ads per answer) are None for an
    advertiser.
    """

    step: Step
    starts: tuple[datetime, ...]
    points: list[Point]
    answers: list[Answers] | None = None
    ad_load: float | None = None
    target: float | None = None


def report_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of reports, of the events behind them, and of series."""
    database, ad_load = router.database, router.settings.ad_load

    @get("/v1/reports", opt=documented(query=_REPORT, answer="Lines; /v1/reports/events has the events of each."))
    async def read_report(request: HttpRequest) -> Response[bytes]:
        """Report auctions, impressions, clicks and revenue."""
        caller = await gate.caller(request, *READERS)
        only(request.query_params, set(_REPORT))
        query = _query(caller, request.query_params)
        kind = choice(request.query_params, "format", Format) or Format.JSON
        lines = await asyncio.to_thread(report, database, query)
        if kind is Format.JSON:
            return json_response(msgspec.Raw(as_json(lines)))
        return csv_response(as_csv(lines), "report.csv")

    @get("/v1/reports/events", opt=documented(query=_TRACE, answer="Charge records, newest first, and the cursor."))
    async def trace(request: HttpRequest) -> Response[bytes]:
        """List the charge records behind a line of a report, or of one auction.

        Raises:
            BadRequest: without an auction id and without a currency.
        """
        caller = await gate.caller(request, *READERS)
        asked = request.query_params
        only(asked, set(_TRACE))
        cursor, limit = asked.get("cursor", ""), number(asked, "limit", 100, 1, 1_000)
        if auction_id := asked.get("auction_id", ""):
            own = "" if caller.is_admin else caller.advertiser_id
            page = await asyncio.to_thread(
                lambda: charges_of(database, auction_id=auction_id, advertiser_id=own, cursor=cursor, limit=limit)
            )
            return json_response(_shown(caller, page))
        if not asked.get("currency"):
            raise BadRequest("currency", None, "give the line's currency")
        line = _line(caller, asked)
        return json_response(_shown(caller, await asyncio.to_thread(events_of, database, line, cursor, limit)))

    @get("/v1/summary", opt=documented(answer="Sums over the ledger, or over an advertiser's own charges."))
    async def summary(request: HttpRequest) -> Response[bytes]:
        """Sum revenue by currency, and charged events."""
        caller = await gate.caller(request, *READERS)
        found = await asyncio.to_thread(totals, database, caller.advertiser_id)
        revenue: dict[str, int] = {}
        for total in found:
            revenue[total.currency] = revenue.get(total.currency, 0) + total.charged_micros
        return json_response({"revenue_micros": revenue, "charges": sum(total.charges for total in found)})

    @get(
        "/v1/reports/series", opt=documented(query=_SERIES, answer="All steps, and the figures of those that have any.")
    )
    async def read_series(request: HttpRequest) -> Response[bytes]:
        """Report revenue, impressions, clicks and answers over time."""
        caller = await gate.caller(request, *READERS)
        asked = request.query_params
        only(asked, set(_SERIES))
        window = Window(
            step=choice(asked, "step", Step) or Step.HOUR,
            count=number(asked, "count", 24, 1, MOST_STEPS),
            now=datetime.now(UTC),
            advertiser_id=caller.advertiser_id if not caller.is_admin else asked.get("advertiser_id", ""),
            model_version=asked.get("model_version", ""),
        )
        found = Series(step=window.step, starts=window.starts, points=await asyncio.to_thread(points, database, window))
        if caller.is_admin:
            found = msgspec.structs.replace(
                found,
                answers=await asyncio.to_thread(answers, database, window),
                ad_load=router.context.ad_load,
                target=ad_load.target if ad_load else None,
            )
        return json_response(found)

    return [read_report, trace, summary, read_series]


def _shown(caller: Caller, page: Page[Record]) -> Page[Record]:
    """Return the records as the caller may see them.

    Sources would let two advertisers match their readers, and a publisher's part of a charge is between it and the
    platform.
    """
    if caller.is_admin:
        return page
    items = tuple(replace(record, source="", publisher_micros=0) for record in page.items)
    return Page[Record](items=items, cursor=page.cursor)


def _query(caller: Caller, asked: Mapping[str, str]) -> Query:
    """Return the report query; an advertiser's key is limited to its own campaigns.

    Raises:
        BadRequest: for an unknown dimension.
    """
    names = [name.strip() for name in asked.get("group_by", "").split(",") if name.strip()]
    known = {dimension.value for dimension in Dimension}
    for name in names:
        if name not in known:
            raise BadRequest("group_by", name, f"use some of {', '.join(Dimension)}")
    advertiser = asked.get("advertiser_id", "")
    return Query(
        group_by=tuple(Dimension(name) for name in names),
        first_day=asked.get("first_day", ""),
        last_day=asked.get("last_day", ""),
        advertiser_id=caller.advertiser_id if caller.is_of_advertiser else advertiser,
        campaign=asked.get("campaign", ""),
    )


def _line(caller: Caller, asked: Mapping[str, str]) -> Line:
    """Return the line whose events are wanted: its dimensions; its figures do not matter."""
    return Line(
        campaign_id=asked.get("campaign_id"),
        creative_id=asked.get("creative_id"),
        placement=asked.get("placement"),
        day=asked.get("day"),
        model_version=asked.get("model_version"),
        currency=asked["currency"],
        auctions=0,
        impressions=0,
        clicks=0,
        charged_clicks=0,
        revenue_micros=0,
        query=_query(caller, asked),
    )
