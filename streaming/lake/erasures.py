"""Erasing readers: their part of the answers (question, turns, profile, text) is removed; auction and clicks remain.

A request changes the tables at once, and stays in force until the log has dropped its records: a worker stores nothing
of the reader that a replay or a router's spool brings later. The table `erasures` holds the requests in force, the
table `audit` who erased how many answers when, and for good; it does not hold whose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pyarrow as pa
from deltalake import QueryBuilder, write_deltalake

from mechanism.errors import InputError
from streaming.events import AnyEvent, Interaction
from streaming.lake.schema import to_us
from streaming.lake.store import Lake, LakeUnavailable, store_errors
from streaming.topics import INTERACTIONS

REQUESTS, AUDIT = "erasures", "audit"
SEGMENT = timedelta(days=1)
"""A log's records go by segments, which are written for a day at most: so much longer than the retention."""
ATTEMPTS = 20
_USER = "reader['user_id']"
"""Empty for readers without an id, null where the reader's part is not there."""
_HAS_READER = f"coalesce({_USER}, '-') <> '-'"
"""A function of the column: Delta refuses a plain condition on one that it keeps no statistics of."""
_MOMENT = pa.timestamp("us", tz="UTC")
_REQUESTS = pa.schema(
    [("kind", pa.string()), ("subject", pa.string()), ("requested_at", _MOMENT), ("log_until", _MOMENT)]
)
_AUDIT = pa.schema([("at", _MOMENT), ("who", pa.string()), ("by", pa.string()), ("answers", pa.int64())])
_SUBJECTS = {
    "user": (re.compile("[0-9a-f]{32}"), "give a pseudonym: 32 hexadecimal digits"),
    "auction": (re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "give an auction's id, a UUID"),
}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """Whose answers up to when; `log_until` is when the log has dropped the last of them, dead letters too."""

    kind: Literal["user", "auction"]
    subject: str
    requested_at: datetime
    log_until: datetime

    @property
    def predicate(self) -> str:
        """The condition in SQL on the rows of interactions."""
        column = f"coalesce({_USER}, '-')" if self.kind == "user" else "auction_id"
        return f"{column} = '{self.subject}' AND occurred_us <= {to_us(self.requested_at)}"


class Requests:
    """The requests in force."""

    def __init__(self, requests: list[Request]) -> None:
        self.all = requests
        ordered = sorted(requests, key=lambda request: request.requested_at)  # the last one of a subject counts
        self._users = {r.subject: r.requested_at for r in ordered if r.kind == "user"}
        self._auctions = {r.subject: r.requested_at for r in ordered if r.kind == "auction"}

    def cover(self, event: AnyEvent) -> bool:
        """Return whether the reader's part of an event must not be stored."""
        if not self.all or not isinstance(event, Interaction) or event.reader is None:
            return False
        asked = [self._users.get(event.reader.user_id), self._auctions.get(event.auction_id)]
        return any(at is not None and event.occurred_at <= at for at in asked)


NO_REQUESTS = Requests([])


def erase(
    lake: Lake,
    kind: Literal["user", "auction"],
    subject: str,
    who: str,
    retention: timedelta,
    now: datetime | None = None,
) -> tuple[Request, int]:
    """Erase the reader's part of a user's or an auction's answers so far; return the request and how many there were.

    `who` is written to the audit; `retention` is that of the log's topics. Asking again extends the request to now.

    Raises:
        InputError: if `subject` is no pseudonym or auction id.
        LakeUnavailable: if the tables cannot be changed now; a request that was recorded is carried out by the upkeep.
    """
    form, remedy = _SUBJECTS[kind]
    if not form.fullmatch(subject):
        raise InputError(kind, f"<{len(subject)} characters>", remedy)
    at = now or datetime.now(UTC)
    # twice: what becomes a dead letter near the end of its time is kept once more
    request = Request(kind=kind, subject=subject, requested_at=at, log_until=at + 2 * (retention + SEGMENT))
    put_requests(lake, [request])
    answers = remove_readers(lake, request.predicate)
    record(lake, who, kind, answers, at)
    return request, answers


def erase_before(lake: Lake, moment: datetime, who: str, now: datetime | None = None) -> int:
    """Erase the reader's part of all answers before a moment; return how many there were."""
    answers = remove_readers(lake, f"occurred_us < {to_us(moment)}")
    record(lake, who, "age", answers, now or datetime.now(UTC))
    return answers


def put_requests(lake: Lake, requests: Sequence[Request]) -> None:
    """Put requests in force, so that workers store nothing of what they ask for."""
    if requests:
        _append(lake, REQUESTS, _REQUESTS, [msgspec.structs.asdict(request) for request in requests])


def read_requests(lake: Lake) -> Requests:
    """Return the requests in force."""
    found = _read(lake, REQUESTS, f"SELECT * FROM {REQUESTS}")
    return Requests([msgspec.convert(row, Request) for row in found])


def read_audit(lake: Lake) -> list[dict[str, Any]]:
    """Return who erased how many answers when, oldest first."""
    return _read(lake, AUDIT, f"SELECT * FROM {AUDIT} ORDER BY at")


def drop_requests(lake: Lake, now: datetime) -> None:
    """Forget the requests that no record of the log can come back for: they are themselves about a person."""
    if any(request.log_until <= now for request in read_requests(lake).all):
        _change(lake, REQUESTS, lambda table: table.delete(f"log_until <= {_sql(now)}"))


def remove_readers(lake: Lake, predicate: str) -> int:
    """Remove the reader's part of the answers that match; return how many had one."""
    found = _change(
        lake,
        INTERACTIONS,
        lambda table: table.update(updates={"reader": "NULL"}, predicate=f"{_HAS_READER} AND {predicate}"),
    )
    return int(found["num_updated_rows"])


def record(lake: Lake, who: str, by: str, answers: int, at: datetime) -> None:
    """Write a line of the audit."""
    _append(lake, AUDIT, _AUDIT, [{"at": at, "who": who, "by": by, "answers": answers}])


def _change(lake: Lake, table: str, change: Any) -> Any:
    """Change rows, again where another commit was faster.

    Raises:
        LakeUnavailable: if it failed too often.
    """
    for attempt in range(ATTEMPTS):
        handle = lake.open(table)
        try:
            with store_errors(lake.location(table)):
                return change(handle)
        except LakeUnavailable:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError


def _append(lake: Lake, table: str, schema: Any, rows: list[dict[str, Any]]) -> None:
    handle = lake.create(table, schema, [])
    with store_errors(lake.location(table)):
        write_deltalake(handle, pa.Table.from_pylist(rows, schema=schema), mode="append")


def _read(lake: Lake, table: str, sql: str) -> list[dict[str, Any]]:
    if not lake.has(table):
        return []
    with store_errors(lake.location(table)):
        rows: list[dict[str, Any]] = pa.table(
            QueryBuilder().register(table, lake.open(table)).execute(sql).read_all()
        ).to_pylist()
    return rows


def _sql(moment: datetime) -> str:
    return f"arrow_cast({to_us(moment)}, 'Timestamp(Microsecond, Some(\"UTC\"))')"
