"""Erasing readers: their part of the answers (question, turns, profile, text) is removed; auction and clicks remain.

A request changes the tables at once. It stays in force until the log has dropped the records that it covers, so that
workers do not store the reader's part when a replay or a router's spool delivers such a record later. The table
`erasures` holds the requests in force. The table `audit` keeps for ever who erased how many answers and when, but not
of which reader.
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
"""A log drops whole segments, which span a day at most: a record may stay this much longer than the retention."""
ATTEMPTS = 20
_USER = "reader['user_id']"
"""Empty for readers without an id, null if the reader's part is missing."""
_HAS_READER = f"coalesce({_USER}, '-') <> '-'"
"""Written as a function: Delta refuses a plain condition on a column without statistics."""
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
    """A request to erase a user's answers, or one auction's, up to `requested_at`.

    At `log_until` the log has dropped all of their records, dead letters included.
    """

    kind: Literal["user", "auction"]
    subject: str
    requested_at: datetime
    log_until: datetime

    @property
    def predicate(self) -> str:
        """The SQL condition that selects the rows of the interactions to erase."""
        column = f"coalesce({_USER}, '-')" if self.kind == "user" else "auction_id"
        return f"{column} = '{self.subject}' AND occurred_us <= {to_us(self.requested_at)}"


class Requests:
    """The requests in force."""

    def __init__(self, requests: list[Request]) -> None:
        self.all = requests
        ordered = sorted(requests, key=lambda request: request.requested_at)  # the latest of a subject counts
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
    """Erase the reader's part of a user's or an auction's answers so far; return the request and the number of answers.

    `who` is written to the audit; `retention` is that of the log's topics. A second call extends the request to now.
    LakeUnavailable propagates if the tables cannot be changed now; the upkeep carries out a request that was stored.

    Raises:
        InputError: if `subject` is no pseudonym or auction id.
    """
    form, remedy = _SUBJECTS[kind]
    if not form.fullmatch(subject):
        raise InputError(kind, f"<{len(subject)} characters>", remedy)
    at = now or datetime.now(UTC)
    # twice: a record may become a dead letter at the end of its retention, and is then kept as long again
    request = Request(kind=kind, subject=subject, requested_at=at, log_until=at + 2 * (retention + SEGMENT))
    put_requests(lake, [request])
    answers = remove_readers(lake, request.predicate)
    record(lake, who, kind, answers, at)
    return request, answers


def erase_before(lake: Lake, moment: datetime, who: str, now: datetime | None = None) -> int:
    """Erase the reader's part of all answers before a moment; return the number of answers."""
    answers = remove_readers(lake, f"occurred_us < {to_us(moment)}")
    record(lake, who, "age", answers, now or datetime.now(UTC))
    return answers


def put_requests(lake: Lake, requests: Sequence[Request]) -> None:
    """Put requests in force, so that workers do not store the data that they cover."""
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
    """Remove the requests whose records the log has dropped, as a request is itself personal data."""
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
    """Change rows, and try again if another commit came first.

    Raises:
        LakeUnavailable: if ATTEMPTS attempts failed.
    """
    attempt = 0
    while True:
        handle = lake.open(table)
        try:
            with store_errors(lake.location(table)):
                return change(handle)
        except LakeUnavailable:
            attempt += 1
            if attempt == ATTEMPTS:
                raise


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
