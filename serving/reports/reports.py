"""Reports over the ledger's counters, grouped by any dimensions, and the charge records behind each of their lines.

Days are those of the campaigns' time zones. Money of different currencies is never added: every line has one currency.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec.structs import replace
from sqlalchemy import ColumnElement, Connection, Table, case, func, select, tuple_

from mechanism.errors import InputError
from mechanism.types import MICROS_PER_UNIT, Micros
from serving.campaigns.types import Priority
from serving.database.columns import checked_day, checked_moment, sum_of
from serving.database.cursors import Page, checked_limit, read_cursor, write_cursor
from serving.database.engine import Database
from serving.database.schema import advertiser_totals, auction_overlaps, campaigns, charges, refunds, report_counters
from serving.ledger.entries import reason_of

MOST_LINES = 100_000
CHARGES = "charges"
"""The list that its cursors are signed for."""
SUMMED = (
    *("auctions", "impressions", "clicks", "charged_clicks", "revenue_micros", "invalid_clicks", "refunded_micros"),
    *("conversions", "conversion_value_micros"),
)
HOUSE = {"house_impressions": "impressions", "house_clicks": "clicks"}
"""The parts of figures that house ads had."""
FIGURES = (*SUMMED, "net_micros", *HOUSE)
# Spreadsheets read a cell that starts with one of these as a formula, and may run it.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Dimension(StrEnum):
    """A column that a report can be grouped by."""

    CAMPAIGN = "campaign_id"
    CREATIVE = "creative_id"
    PLACEMENT = "placement"
    DAY = "day"
    MODEL_VERSION = "model_version"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which report: how it is grouped and limited; an empty limit is no limit.

    `first_day` and `last_day` are ISO dates, both included.
    """

    group_by: tuple[Dimension, ...] = ()
    first_day: str = ""
    last_day: str = ""
    advertiser_id: str = ""
    campaign: str = ""

    def __post_init__(self) -> None:
        for name, day in (("first_day", self.first_day), ("last_day", self.last_day)):
            if day:
                checked_day(name, day)
        if self.first_day and self.last_day and self.first_day > self.last_day:
            raise InputError("first_day", self.first_day, f"it is after last_day, {self.last_day}")
        if len(set(self.group_by)) < len(self.group_by):
            raise InputError("group_by", ", ".join(self.group_by), "name each dimension once")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a report; a dimension that the report is not grouped by is None.

    `auctions` counts the auctions whose prompt held any creative of the line, each once. `clicks` and `revenue_micros`
    are gross: valid clicks and their charges as they were booked. `invalid_clicks` were invalid when they came or found
    so later, `refunded_micros` was given back for the latter, and `net_micros` is what the advertiser owes.
    `conversions` count on the day of their click. `house_impressions` and `house_clicks` are the parts that house ads
    had, which cost nothing; `priority` is that of the campaign, where a line is of one. `query` is the report's, so
    that a line can be sent back to ask for its events.
    """

    campaign_id: str | None = None
    creative_id: str | None = None
    placement: str | None = None
    day: str | None = None
    model_version: str | None = None
    priority: str | None = None
    currency: str
    auctions: int
    impressions: int
    clicks: int
    charged_clicks: int
    revenue_micros: Micros
    query: Query
    invalid_clicks: int = 0
    refunded_micros: Micros = 0
    net_micros: Micros = 0
    conversions: int = 0
    conversion_value_micros: Micros = 0
    house_impressions: int = 0
    house_clicks: int = 0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One charge record of the ledger, and its refund; `reason` is that of `serving.ledger.entries.ChargeResult`."""

    id: str
    kind: str
    invalid: str
    auction_id: str
    campaign_id: str
    advertiser_id: str
    creative_id: str
    placement: str
    model_version: str
    currency: str
    price_micros: Micros
    charged_micros: Micros
    occurred_at: datetime
    day: str
    recorded_at: datetime
    source: str = ""
    publisher_id: str = ""
    publisher_micros: Micros = 0
    refunded_micros: Micros = 0
    refund_reason: str = ""
    reason: str = ""


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """What an advertiser was charged in one currency, less refunds, and in how many charges."""

    advertiser_id: str
    currency: str
    charged_micros: Micros
    charges: int


def report(database: Database, query: Query) -> list[Line]:
    """Return the lines of a report, sorted by their dimensions.

    Raises:
        InputError: if they are more than 100,000.
    """
    keys = [report_counters.c[name] for name in (*query.group_by, "currency")]
    keys += [campaigns.c.priority] if _is_of_campaign(query) else []
    scope = _scope(query)
    columns = [report_counters.c[f"{scope}_auctions"], *(report_counters.c[name] for name in SUMMED[1:])]
    sums = [sum_of(column).label(name) for name, column in zip(SUMMED, columns, strict=True)]
    is_house = campaigns.c.priority == Priority.HOUSE.value
    for name, whole in HOUSE.items():
        sums.append(sum_of(case((is_house, report_counters.c[whole]), else_=0)).label(name))
    both = report_counters.outerjoin(campaigns, campaigns.c.id == report_counters.c.campaign_id)
    chosen = select(*keys, *sums).select_from(both).where(*_within(query, report_counters))
    chosen = chosen.group_by(*keys).order_by(*keys)
    with database.read() as connection:
        rows = connection.execute(chosen.limit(MOST_LINES + 1)).mappings().all()
        twice: dict[tuple[str, ...], int] = {}
        if scope in ("advertiser", "all") and Dimension.DAY not in query.group_by:
            twice = _counted_twice(connection, query)
    if len(rows) > MOST_LINES:
        raise InputError("report", f"more than {MOST_LINES} lines", "ask for fewer days or fewer dimensions")
    lines = [Line(**row, net_micros=row["revenue_micros"] - row["refunded_micros"], query=query) for row in rows]
    return [replace(line, auctions=line.auctions - twice.get(_key(line), 0)) for line in lines] if twice else lines


def events_of(database: Database, line: Line, cursor: str = "", limit: int = 100) -> Page[Record]:
    """Return the charge records behind a line, newest first, uncharged and invalid events included.

    Their charges add up to the line's revenue; the valid clicks among them are its clicks.
    """
    conditions = [*_within(line.query, charges), charges.c.currency == line.currency]
    for dimension in Dimension:
        value = getattr(line, dimension.value)
        if value is not None:
            conditions.append(charges.c[dimension.value] == value)
    return _records(database, conditions, cursor, limit)


def charges_of(
    database: Database,
    *,
    auction_id: str = "",
    event_id: str = "",
    advertiser_id: str = "",
    cursor: str = "",
    limit: int = 100,
) -> Page[Record]:
    """Return the charge records of one auction, event or advertiser, or all, newest first."""
    conditions = [charges.c.auction_id == auction_id] if auction_id else []
    conditions += [charges.c.id == event_id] if event_id else []
    conditions += [charges.c.advertiser_id == advertiser_id] if advertiser_id else []
    return _records(database, conditions, cursor, limit)


def totals(database: Database, advertiser_id: str = "") -> list[Total]:
    """Return the total charges of each advertiser, or of one."""
    query = select(advertiser_totals).order_by(advertiser_totals.c.advertiser_id, advertiser_totals.c.currency)
    if advertiser_id:
        query = query.where(advertiser_totals.c.advertiser_id == advertiser_id)
    with database.read() as connection:
        return [Total(**row) for row in connection.execute(query).mappings()]


def as_json(lines: Sequence[Line]) -> bytes:
    """Return `{"lines": [...]}`; each line holds its query, so that it can be sent back to ask for its events."""
    return msgspec.json.encode({"lines": lines})


def as_csv(lines: Sequence[Line]) -> str:
    """Return one CSV row per line, under a header; revenue in micros and in units of the currency.

    An apostrophe is put before text that a spreadsheet would read as a formula.
    """
    dimensions = [dimension.value for dimension in (lines[0].query.group_by if lines else tuple(Dimension))]
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    dimensions += ["priority"] if lines and _is_of_campaign(lines[0].query) else []
    writer.writerow([*dimensions, "currency", *FIGURES, "revenue"])
    for line in lines:
        names = [escaped(getattr(line, name) or "") for name in (*dimensions, "currency")]
        writer.writerow([*names, *(getattr(line, name) for name in FIGURES), _units(line.revenue_micros)])
    return text.getvalue()


def _records(database: Database, conditions: list[ColumnElement[bool]], cursor: str, limit: int) -> Page[Record]:
    key = (charges.c.occurred_at, charges.c.id, charges.c.kind, charges.c.invalid)
    refunded = func.coalesce(refunds.c.micros, 0).label("refunded_micros")
    why = func.coalesce(refunds.c.reason, "").label("refund_reason")
    both = (refunds.c.id == charges.c.id) & (refunds.c.kind == charges.c.kind) & (charges.c.invalid == "")
    query = select(charges, refunded, why).select_from(charges.outerjoin(refunds, both))
    query = query.where(*conditions).order_by(*(column.desc() for column in key))
    if cursor:
        occurred_at, *rest = read_cursor(database.cursors, CHARGES, cursor, tuple[datetime, str, str, str])
        query = query.where(tuple_(*key) < tuple_(checked_moment("cursor", occurred_at), *rest))
    with database.read() as connection:
        rows = connection.execute(query.limit(checked_limit(limit) + 1)).mappings().all()
    found = [
        Record(**row, reason=reason_of(row["invalid"], row["price_micros"], row["charged_micros"]))
        for row in rows[:limit]
    ]
    last = found[-1] if len(rows) > limit else None
    if last is None:
        return Page(items=tuple(found))
    key_of_last = (last.occurred_at, last.id, last.kind, last.invalid)
    return Page(items=tuple(found), cursor=write_cursor(database.cursors, CHARGES, key_of_last))


def _is_of_campaign(query: Query) -> bool:
    """Whether each line is of one campaign, and so of one priority."""
    return Dimension.CAMPAIGN in query.group_by or Dimension.CREATIVE in query.group_by


def _scope(query: Query) -> str:
    """Return the scope of a line, which selects its auction counter: creative, campaign, advertiser or all."""
    if Dimension.CREATIVE in query.group_by:
        return "creative"
    if Dimension.CAMPAIGN in query.group_by or query.campaign:
        return "campaign"
    return "advertiser" if query.advertiser_id else "all"


def _counted_twice(connection: Connection, query: Query) -> dict[tuple[str, ...], int]:
    """Return the auctions that are counted on two of the report's days, by the values of a line's keys."""
    table = auction_overlaps
    keys = [table.c[name] for name in (*query.group_by, "currency")]
    chosen = [table.c.advertiser_id == query.advertiser_id, table.c.earlier_day >= query.first_day]
    chosen += [table.c.day <= query.last_day] if query.last_day else []
    found = connection.execute(select(*keys, sum_of(table.c.auctions)).where(*chosen).group_by(*keys))
    return {tuple(key): number for *key, number in found}


def _key(line: Line) -> tuple[str, ...]:
    return tuple(getattr(line, name) for name in (*line.query.group_by, "currency"))


def _within(query: Query, table: Table) -> list[ColumnElement[bool]]:
    conditions = [
        (query.first_day, table.c.day >= query.first_day),
        (query.last_day, table.c.day <= query.last_day),
        (query.advertiser_id, table.c.advertiser_id == query.advertiser_id),
        (query.campaign, table.c.campaign_id == query.campaign),
    ]
    return [condition for given, condition in conditions if given]


def escaped(cell: str) -> str:
    """Return a cell of a CSV file that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _units(micros: Micros) -> str:
    return f"{micros // MICROS_PER_UNIT}.{micros % MICROS_PER_UNIT:06d}"
