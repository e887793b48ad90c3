"""`/v1/reports/series`: revenue and experience by hour or day, for curves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from serving.accounts.keys import Role
from serving.http.auth import Gate
from serving.http.bodies import choice, number, only
from serving.http.documents import documented
from serving.reports.series import MOST_STEPS, Answers, Point, Step, Window, answers, points
from serving.router import Router

READERS = (Role.ADMIN, Role.ADVERTISER)
_QUERY = {
    "step": "hour or day, in UTC",
    "count": f"how many, up to now: 1 to {MOST_STEPS}, or 24",
    "model_version": "this one alone",
    "advertiser_id": "administrators only",
}


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """`starts` are all steps, also those without anything. `answers` (those that had candidates) and the ad load are
    the platform's and None for an advertiser; `target` is the ad load's, in ads per answer, where one is set."""

    step: Step
    starts: tuple[datetime, ...]
    points: list[Point]
    answers: list[Answers] | None = None
    ad_load: float | None = None
    target: float | None = None


def series_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """The handler of the series."""
    database, ad_load = router.database, router.settings.ad_load

    @get("/v1/reports/series", opt=documented(query=_QUERY, answer="Steps, and the figures of those with any."))
    async def read_series(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Revenue, impressions, clicks and answers over time."""
        caller = await gate.caller(request, *READERS)
        asked = request.query_params
        only(asked, set(_QUERY))
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
                ad_load=router.room.load,
                target=ad_load.target if ad_load else None,
            )
        headers = {"Cache-Control": "no-store"}
        return Response(msgspec.json.encode(found), media_type="application/json", headers=headers)

    return [read_series]
