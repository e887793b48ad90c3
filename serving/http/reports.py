"""`/v1/reports`: revenue, impressions and clicks grouped as asked, as JSON or CSV, and the events behind each line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from serving.accounts.keys import Role
from serving.database.cursors import Page
from serving.errors import bad_request
from serving.http.auth import Caller, Gate
from serving.http.bodies import choice, number, only
from serving.http.documents import documented
from serving.reports.rendering import as_csv, as_json
from serving.reports.reports import Dimension, Line, Query, Record, charges_of, events_of, report, totals
from serving.router import Router

READERS = (Role.ADMIN, Role.ADVERTISER)
_WITHIN = {
    "first_day": "ISO date, in the campaigns' time zones",
    "last_day": "ISO date, inclusive",
    "campaign": "this campaign alone",
    "advertiser_id": "administrators only",
}
_REPORT = {"group_by": f"some of {', '.join(Dimension)}, with commas", "format": "json or csv"} | _WITHIN
_TRACE = (
    {dimension.value: "of the line, where it is grouped by it" for dimension in Dimension}
    | {"currency": "of the line", "auction_id": "instead of a line: one auction's charges", "limit": "1 to 1000"}
    | {"cursor": "that of the page before"}
    | _WITHIN
)


class Format(StrEnum):
    """How a report is written."""

    JSON = "json"
    CSV = "csv"


def report_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers of reports and their traces."""
    database = router.database

    @get("/v1/reports", opt=documented(query=_REPORT, answer="Lines; each can be traced to its events."))
    async def read_report(request: Request[Any, Any, Any]) -> Response[Any]:
        """Auctions, impressions, clicks and revenue."""
        caller = await gate.caller(request, *READERS)
        only(request.query_params, set(_REPORT))
        query = _query(caller, request.query_params)
        kind = choice(request.query_params, "format", Format) or Format.JSON
        lines = await asyncio.to_thread(report, database, query)
        headers = {"Cache-Control": "no-store"}
        if kind is Format.CSV:
            headers["Content-Disposition"] = 'attachment; filename="report.csv"'
            return Response(as_csv(lines), media_type="text/csv", headers=headers)
        return Response(as_json(lines), media_type="application/json", headers=headers)

    @get("/v1/reports/events", opt=documented(query=_TRACE, answer="Charge records, newest first, and the cursor."))
    async def trace(request: Request[Any, Any, Any]) -> Response[bytes]:
        """The charge records behind a line of a report, or of one auction."""
        caller = await gate.caller(request, *READERS)
        asked = request.query_params
        only(asked, set(_TRACE))
        cursor, limit = asked.get("cursor", ""), number(asked, "limit", 100, 1, 1_000)
        if auction_id := asked.get("auction_id", ""):
            page = await asyncio.to_thread(
                lambda: charges_of(database, auction_id=auction_id, cursor=cursor, limit=limit)
            )
            mine = tuple(r for r in page.items if caller.is_admin or r.advertiser_id == caller.advertiser_id)
            return _json(Page[Record](items=mine, cursor=page.cursor))
        if not asked.get("currency"):
            raise bad_request("currency", None, "give the line's currency")
        line = _line(caller, asked)
        return _json(await asyncio.to_thread(events_of, database, line, cursor, limit))

    @get("/v1/summary", opt=documented(answer="Sums over the whole ledger."))
    async def summary(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Revenue and charged events so far, by currency."""
        caller = await gate.caller(request, *READERS, anonymous=True)
        found = await asyncio.to_thread(totals, database, caller.advertiser_id)
        revenue: dict[str, int] = {}
        for total in found:
            revenue[total.currency] = revenue.get(total.currency, 0) + total.charged_micros
        return _json({"revenue_micros": revenue, "charges": sum(total.charges for total in found)})

    return [read_report, trace, summary]


def _query(caller: Caller, asked: Mapping[str, str]) -> Query:
    """The report that a caller may see: an advertiser its own."""
    names = [name.strip() for name in asked.get("group_by", "").split(",") if name.strip()]
    known = {dimension.value for dimension in Dimension}
    for name in names:
        if name not in known:
            raise bad_request("group_by", name, f"use some of {', '.join(Dimension)}")
    advertiser = asked.get("advertiser_id", "")
    return Query(
        group_by=tuple(Dimension(name) for name in names),
        first_day=asked.get("first_day", ""),
        last_day=asked.get("last_day", ""),
        advertiser_id=caller.advertiser_id if caller.role is Role.ADVERTISER else advertiser,
        campaign=asked.get("campaign", ""),
    )


def _line(caller: Caller, asked: Mapping[str, str]) -> Line:
    """The line whose events are wanted: its dimensions, not its figures."""
    return Line(
        **{dimension.value: asked.get(dimension.value) for dimension in Dimension},
        currency=asked["currency"],
        auctions=0,
        impressions=0,
        clicks=0,
        charged_clicks=0,
        revenue_micros=0,
        query=_query(caller, asked),
    )


def _json(value: Any) -> Response[bytes]:
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"Cache-Control": "no-store"})
