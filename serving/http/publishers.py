"""`/v1/publishers`, `/v1/placements` and `/v1/payouts`: the publishers' side of the market.

Administrators create publishers and issue their keys. A publisher registers its own placements and reads its own
payouts.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import structlog
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from mechanism.types import Micros
from serving.accounts.keys import Role
from serving.answering.question import Question, with_placement
from serving.campaigns.types import normal
from serving.errors import ApiError, BadRequest
from serving.http.auth import Caller, Gate
from serving.http.bodies import Format, HttpRequest, choice, csv_response, decode_body, json_response, only
from serving.http.documents import documented
from serving.reports.payouts import payouts, payouts_csv
from serving.router import Router

log = structlog.get_logger(__name__)

OWNERS = (Role.ADMIN, Role.PUBLISHER)
_PERIOD = {
    "first_day": "ISO date, in UTC",
    "last_day": "ISO date, inclusive",
    "publisher_id": "administrators only",
    "format": "json or csv",
}


class PublisherInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The publisher to create, and its share of what advertisers pay, in thousandths."""

    id: str
    share_thousandths: int


class ShareInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A publisher's share of charges that are booked from now on, in thousandths."""

    share_thousandths: int


class PlacementInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The placement to register; administrators name its publisher."""

    id: str
    publisher_id: str = ""


class FloorsInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All floors of a placement: the lowest bids that take part there, in micros by currency."""

    floors: dict[str, Micros]


_PUBLISHER = msgspec.json.Decoder(PublisherInput)
_SHARE = msgspec.json.Decoder(ShareInput)
_PLACEMENT = msgspec.json.Decoder(PlacementInput)
_FLOORS = msgspec.json.Decoder(FloorsInput)


def publisher_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of publishers, placements and payouts."""
    store, directory = router.publishers, router.placements

    @post("/v1/publishers", status_code=201, opt=documented(PublisherInput, answer="The publisher as stored."))
    async def create_publisher(request: HttpRequest) -> Response[bytes]:
        """Create a publisher and a placement of the same id."""
        await gate.caller(request, Role.ADMIN)
        given = decode_body(await request.body(), _PUBLISHER)
        made = await asyncio.to_thread(store.create, given.id, given.share_thousandths, datetime.now(UTC))
        await asyncio.to_thread(directory.load)
        return json_response(made, 201)

    @get("/v1/publishers", opt=documented(answer="All publishers, by id."))
    async def list_publishers(request: HttpRequest) -> Response[bytes]:
        """List publishers."""
        await gate.caller(request, Role.ADMIN)
        return json_response({"items": await asyncio.to_thread(store.publishers)})

    @patch("/v1/publishers/{publisher_id:str}", opt=documented(ShareInput, answer="The publisher as stored."))
    async def change_share(request: HttpRequest, publisher_id: FromPath[str]) -> Response[bytes]:
        """Change a publisher's share."""
        await gate.caller(request, Role.ADMIN)
        given = decode_body(await request.body(), _SHARE)
        return json_response(await asyncio.to_thread(store.set_share, publisher_id, given.share_thousandths))

    @post("/v1/placements", status_code=201, opt=documented(PlacementInput, answer="The placement as stored."))
    async def register_placement(request: HttpRequest) -> Response[bytes]:
        """Register a placement of a publisher."""
        caller = await gate.caller(request, *OWNERS)
        given = decode_body(await request.body(), _PLACEMENT)
        owner = _publisher(caller, given.publisher_id)
        made = await asyncio.to_thread(store.register, given.id, owner, datetime.now(UTC))
        await asyncio.to_thread(directory.load)
        return json_response(made, 201)

    @get("/v1/placements", opt=documented(query={"publisher_id": "administrators only"}, answer="Placements, by id."))
    async def list_placements(request: HttpRequest) -> Response[bytes]:
        """List placements: an administrator's all, a publisher's own."""
        caller = await gate.caller(request, *OWNERS)
        only(request.query_params, {"publisher_id"})
        owner = _publisher(caller, request.query_params.get("publisher_id", ""))
        return json_response({"items": await asyncio.to_thread(store.placements, owner)})

    @patch("/v1/placements/{placement_id:str}", opt=documented(FloorsInput, answer="The placement as stored."))
    async def set_floors(request: HttpRequest, placement_id: FromPath[str]) -> Response[bytes]:
        """Replace the floors of a placement."""
        caller = await gate.caller(request, *OWNERS)
        given, owner = decode_body(await request.body(), _FLOORS), _publisher(caller, "")
        scale = router.settings.bid_scale
        changed = await asyncio.to_thread(store.set_floors, normal(placement_id), given.floors, scale, owner)
        await asyncio.to_thread(directory.load)
        log.info("placement.floors_set", placement=changed.id, currencies=list(changed.floors))
        return json_response(changed)

    @get("/v1/payouts", opt=documented(query=_PERIOD, answer="What each placement earned in a period, and its shares."))
    async def read_payouts(request: HttpRequest) -> Response[bytes]:
        """Read the payouts of a period."""
        caller = await gate.caller(request, *OWNERS)
        asked = request.query_params
        only(asked, set(_PERIOD))
        owner, kind = _publisher(caller, asked.get("publisher_id", "")), choice(asked, "format", Format)
        lines = await asyncio.to_thread(
            payouts, router.database, asked.get("first_day", ""), asked.get("last_day", ""), owner
        )
        return (
            csv_response(payouts_csv(lines), "payouts.csv") if kind is Format.CSV else json_response({"lines": lines})
        )

    return [
        create_publisher,
        list_publishers,
        change_share,
        register_placement,
        list_placements,
        set_floors,
        read_payouts,
    ]


async def placed(router: Router, caller: Caller, question: Question) -> Question:
    """Return the question on a placement that the caller may use: a publisher's own one if the question names none.

    Raises:
        ApiError: 403 for a placement of another publisher, or one that the caller's publisher has not registered.
    """
    placement = question.request.ads.placement
    if caller.publisher_id and not placement:
        return with_placement(question, caller.publisher_id)
    owner = router.placements.owner(placement)
    if caller.publisher_id and owner != caller.publisher_id:
        await asyncio.to_thread(router.placements.load)  # it may have been registered at another router just now
        owner = router.placements.owner(placement)
    if owner == caller.publisher_id or caller.is_admin:
        return with_placement(question, normal(placement)) if owner else question
    remedy = (
        "register it for this key's publisher first (POST /v1/placements)"
        if caller.publisher_id
        else "send a key of the publisher that registered it, or name another placement"
    )
    message = f"ads.placement: {placement!r}: {remedy}"
    raise ApiError(403, message, "ads.placement", "forbidden")


def _publisher(caller: Caller, named: str) -> str:
    """Return the publisher that a request is about: the caller's own; an administrator names one, or none.

    Raises:
        ApiError: 403 if a publisher's key names another publisher.
        BadRequest: if the caller is a publisher's key of no publisher.
    """
    if caller.is_admin:
        return named
    if not caller.publisher_id:
        raise BadRequest("Authorization", "", "this key belongs to no publisher: use one with a publisher_id")
    if named not in ("", caller.publisher_id):
        raise ApiError(403, "publisher_id: leave it out: this key is another publisher's", "publisher_id", "forbidden")
    return caller.publisher_id
