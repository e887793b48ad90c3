"""`POST /v1/campaigns:batch`: many campaigns from a CSV or JSONL file, all or none of them, or the good ones alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import msgspec
import structlog
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import Connection

from mechanism.errors import InputError
from serving.campaigns.input import CampaignInput
from serving.campaigns.rows import MOST_FAULTS, Rows, read_csv, read_jsonl
from serving.campaigns.screening import Names
from serving.campaigns.types import Campaign, CampaignState
from serving.errors import ApiError, BadRequest, ErrorBody, shown
from serving.http.auth import MANAGERS, Caller, Gate
from serving.http.bodies import HttpRequest, choice, convert, json_response, only
from serving.http.campaigns import booked_for, checked_fields
from serving.http.documents import documented
from serving.http.idempotency import attempt, replay
from serving.router import Router
from serving.settings import ServeSettings

log = structlog.get_logger(__name__)

LARGEST_FILE = 16_000_000
READERS: Mapping[str, Callable[[bytes], Rows]] = {
    "text/csv": read_csv,
    "application/jsonl": read_jsonl,
    "application/x-ndjson": read_jsonl,
}
_QUERY = {
    "skip_bad": "true books the good rows and lists the others; otherwise one bad row keeps all from being booked"
}
Faults = dict[int, list[InputError]]


class Switch(StrEnum):
    """A query parameter that is on or off."""

    TRUE = "true"
    FALSE = "false"


class BookedRow(msgspec.Struct, frozen=True):
    """The campaign that a row became, and its state."""

    line: int
    id: str
    state: CampaignState


class RowError(msgspec.Struct, frozen=True):
    """One wrong value of a file; `column` is the path of its field, "line" for a row that cannot be read."""

    line: int
    column: str
    value: str
    remedy: str


class BatchAnswer(msgspec.Struct, frozen=True):
    """What was booked, and what is wrong with the other rows, both in the order of the file."""

    booked: list[BookedRow]
    errors: list[RowError]


class BadRows(ApiError):
    """A 400 that names every bad row; none was booked."""

    def __init__(self, errors: Sequence[RowError], rows: int) -> None:
        self.errors = tuple(errors)
        first, bad = errors[0], len({error.line for error in errors})
        message = (
            f"{bad} of {rows} rows are wrong, and none was booked; line {first.line}, "
            f"{first.column}: {first.value}: {first.remedy}"
        )
        super().__init__(400, message, param=first.column, code="bad_rows")

    def body(self) -> ErrorBody:
        """Return OpenAI's error object with all wrong values as `rows`."""
        whole = super().body()
        whole["error"]["rows"] = msgspec.to_builtins(self.errors)
        return whole


@dataclass(frozen=True, slots=True)
class _Market:
    """What campaigns are checked against."""

    caller: Caller
    now: datetime
    names: Names
    settings: ServeSettings


def batch_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handler of files of campaigns."""
    store, market = router.campaigns, router.marketplace

    @post(
        "/v1/campaigns:batch",
        status_code=201,
        request_max_body_size=LARGEST_FILE,
        opt=documented(
            CampaignInput,
            query=_QUERY,
            answer="The campaigns by line, and the errors of rows that were skipped.",
            file=tuple(READERS),
        ),
    )
    async def create_campaigns(request: HttpRequest) -> Response[bytes]:
        """Create the campaigns of a file, all or none; their creatives are served after their review."""
        caller = await gate.caller(request, *MANAGERS)
        only(request.query_params, set(_QUERY))
        skip_bad = choice(request.query_params, "skip_bad", Switch) is Switch.TRUE
        read = _reader(request)
        async with attempt(router.idempotency, request, caller) as once:
            if once.stored is not None:
                return replay(once.stored)
            body, now, record = await request.body(), datetime.now(UTC), once.recorder(201)
            known = tuple(market.index)
            answer = BatchAnswer([], [])

            def book() -> None:
                rows = read(body)
                good, faults = _checked_rows(rows, _Market(caller, now, Names(known), router.settings))
                lines = list(good)

                def also(connection: Connection, taken: Mapping[int, InputError]) -> None:
                    nonlocal answer
                    bad = faults | {lines[index]: [fault] for index, fault in taken.items()}
                    booked = [BookedRow(line, good[line].id, good[line].state) for line in lines if line not in bad]
                    answer = BatchAnswer(booked, _errors(bad))
                    if bad and not (skip_bad and booked):
                        raise BadRows(answer.errors, len(rows))
                    record(connection, answer)

                store.create_all(list(good.values()), now, also, by=caller.actor)

            await asyncio.to_thread(book)
        log.info("campaigns.uploaded", booked=len(answer.booked), errors=len(answer.errors), key_id=caller.key_id)
        return json_response(answer, 201)

    return [create_campaigns]


def _reader(request: HttpRequest) -> Callable[[bytes], Rows]:
    """Return what reads a file of the request's media type.

    Raises:
        BadRequest: if it is another one.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in READERS:
        raise BadRequest("Content-Type", kind, f"send one of {', '.join(READERS)}")
    return READERS[kind]


def _checked_rows(rows: Rows, market: _Market) -> tuple[dict[int, Campaign], Faults]:
    """Return the campaigns of the good rows, and the faults of the others, by line."""
    faults, good = dict(rows.faults), dict[int, Campaign]()
    of_campaign, of_creative = dict[str, int](), dict[str, int]()
    for line, raw in rows.given.items():
        try:
            given = booked_for(market.caller, convert(raw, CampaignInput))
            campaign = checked_fields(given, market.now, market.names, market.settings)
        except ApiError as error:
            faults[line] = list(error.faults[:MOST_FAULTS])
            continue
        repeated = [(campaign.id, "id", of_campaign.get(campaign.id))]
        repeated += [
            (one.id, f"creatives[{number}].id", of_creative.get(one.id))
            for number, one in enumerate(campaign.creatives)
        ]
        twice = [
            InputError(place, id_, f"line {first} has this id: choose another, or leave it out")
            for id_, place, first in repeated
            if first is not None
        ]
        if twice:
            faults[line] = twice[:MOST_FAULTS]
            continue
        of_campaign[campaign.id] = line
        of_creative.update((one.id, line) for one in campaign.creatives)
        good[line] = campaign
    return good, faults


def _errors(faults: Faults) -> list[RowError]:
    return [
        RowError(line, fault.place, shown(fault.value), fault.remedy)
        for line, found in sorted(faults.items())
        for fault in found
    ]
