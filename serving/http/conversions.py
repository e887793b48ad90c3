"""`POST /v1/conversions`: an advertiser's server reports what readers did after their clicks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import structlog
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from mechanism.errors import InputError
from serving.accounts.keys import Role
from serving.errors import BadFields, shown
from serving.http.auth import Gate
from serving.http.bodies import HttpRequest, convert, decode_object, json_response
from serving.http.documents import documented
from serving.ledger.conversions import MOST_CONVERSIONS, ReportedConversion, book_conversions
from serving.router import Router
from streaming.events import Conversion

log = structlog.get_logger(__name__)

REPORTERS = (Role.ADMIN, Role.ADVERTISER)


class ConversionInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One conversion. `click_id` is what `{click_id}` in the landing address became, `type` such as "purchase".

    `id` is the advertiser's own, by which it counts once for each type: the click id if it is left out. `occurred_at`
    is now if it is left out. `value_micros` is in `currency`, the campaign's.
    """

    click_id: Annotated[str, Meta(pattern="^[!-~]{1,200}$")]
    type: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
    id: Annotated[str, Meta(pattern="^[ -~]{0,200}$")] = ""
    occurred_at: Annotated[datetime, Meta(tz=True)] | None = None
    value_micros: Annotated[int, Meta(ge=0, le=10**13)] = 0
    currency: Annotated[str, Meta(pattern="^([A-Z]{3})?$")] = ""


class ConversionBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """1 to 1,000 conversions."""

    conversions: list[ConversionInput]


class _Undecoded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    conversions: Annotated[list[Any], Meta(min_length=1, max_length=MOST_CONVERSIONS)]


def conversion_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handler of conversions."""

    @post(
        "/v1/conversions",
        status_code=200,
        opt=documented(ConversionBatch, answer="How many were `accepted` and `repeated`, and the `errors` by index."),
    )
    async def report_conversions(request: HttpRequest) -> Response[bytes]:
        """Report conversions of the caller's clicks; a bad one keeps no other from being stored.

        Raises:
            BadFields: if all are bad.
        """
        caller = await gate.caller(request, *REPORTERS)
        now = datetime.now(UTC)
        given = convert(decode_object(await request.body()), _Undecoded).conversions
        good, faults = _decoded(given, now)
        advertiser = "" if caller.is_admin else caller.advertiser_id
        booked = await asyncio.to_thread(
            lambda: book_conversions(router.database, advertiser, [one for _, one in good], now)
        )
        await _log(router, [*booked.new, *booked.again])
        for number, fault in booked.faults.items():
            index = good[number][0]
            faults[index] = [InputError(f"conversions[{index}].{fault.place}", fault.value, fault.remedy)]
        if len(faults) == len(given):
            raise BadFields([fault for index in sorted(faults) for fault in faults[index]])
        errors = [
            {"index": index, "field": fault.place, "value": shown(fault.value), "remedy": fault.remedy}
            for index in sorted(faults)
            for fault in faults[index]
        ]
        return json_response({"accepted": len(booked.new), "repeated": booked.repeated, "errors": errors})

    return [report_conversions]


async def _log(router: Router, events: Sequence[Conversion]) -> None:
    """Write events to the disk before the answer: an advertiser with an answer does not report again."""
    writes = [asyncio.wrap_future(router.events.put_durably(event)) for event in events]
    for error in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(error, BaseException):
            log.error("conversion.not_recorded", reason=type(error).__name__)


def _decoded(
    given: Sequence[Any], now: datetime
) -> tuple[list[tuple[int, ReportedConversion]], dict[int, list[InputError]]]:
    """Return the conversions that have the right shape, with their indexes, and the faults of the others by index."""
    good: list[tuple[int, ReportedConversion]] = []
    faults: dict[int, list[InputError]] = {}
    for index, raw in enumerate(given):
        place = f"conversions[{index}]"
        try:
            one = convert(raw, ConversionInput)
        except BadFields as error:
            faults[index] = [
                InputError(place if f.place == "body" else f"{place}.{f.place}", f.value, f.remedy)
                for f in error.faults
            ]
            continue
        at = one.occurred_at or now
        if not 2000 <= at.year < 9999:  # elsewhere, time zones lead out of the calendar
            faults[index] = [InputError(f"{place}.occurred_at", at.isoformat(), "give the time of the conversion")]
            continue
        reported = ReportedConversion(
            click_id=one.click_id,
            type=one.type,
            id=one.id,
            occurred_at=at.astimezone(UTC),
            value_micros=one.value_micros,
            currency=one.currency,
        )
        good.append((index, reported))
    return good, faults
