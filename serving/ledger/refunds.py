"""Refunds: clicks that were charged and are found invalid later.

A charge record is never changed. A refund is a record of its own, one per click, and gives back exactly what the click
was charged: to the campaign's total and day, so that its budget is free again, to the advertiser's total and so to its
account, and as a counter of its report line.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, RowMapping, Select, bindparam, exists, insert, select, update

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.campaigns.funds import Account, lock_limited, mark_changed
from serving.campaigns.types import Pricing
from serving.database.columns import checked_moment, checked_text
from serving.database.cursors import change_mark
from serving.database.engine import Database
from serving.database.schema import (
    advertiser_totals,
    campaign_days,
    campaign_spend,
    charges,
    refunds,
)
from serving.ledger.counters import add_to_lines, line_of

BATCH = 1_000
"""Clicks refunded in one transaction, while which their campaigns wait."""


class Clicks(msgspec.Struct, frozen=True, kw_only=True):
    """Which clicks: those that fit all fields that are given, from `since` on and before `until`.

    `source` is the keyed hash of an address, as the charge records have it.
    """

    click_id: str = ""
    auction_id: str = ""
    source: str = ""
    placement: str = ""
    campaign_id: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        if not (self.click_id or self.auction_id or self.source or self.placement):
            remedy = "name clicks by their id, auction, source or placement: not all of a campaign at once"
            raise InputError("clicks", "", remedy)
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None:
                checked_moment(name, moment)


class Refunded(msgspec.Struct, frozen=True, kw_only=True):
    """How many clicks were marked invalid, and what was given back by currency."""

    clicks: int
    micros: dict[str, Micros]


def refund(database: Database, chosen: Clicks, reason: str) -> Refunded:
    """Mark valid clicks invalid and refund their charges; clicks that were refunded before are left alone.

    An interrupted call has refunded whole batches; the next call does the rest.
    """
    checked_text("reason", reason)
    clicks, micros = 0, Counter[str]()
    while batch := _refund_batch(database, chosen, reason):
        clicks += len(batch)
        for row in batch:
            micros[row["currency"]] += row["charged_micros"]
    return Refunded(clicks=clicks, micros=dict(micros))


def _refund_batch(database: Database, chosen: Clicks, reason: str) -> Sequence[RowMapping]:
    """Refund the next batch and return its charge records; none if no click is left."""
    tried: Sequence[RowMapping] = ()

    def work(connection: Connection) -> Sequence[RowMapping]:
        nonlocal tried
        if tried:  # the commit of the attempt before is in doubt
            first = (refunds.c.id == tried[0]["id"]) & (refunds.c.kind == tried[0]["kind"])
            if connection.execute(select(refunds.c.id).where(first)).first() is not None:
                return tried
        tried = _refund(connection, chosen, reason)
        return tried

    return database.transact(work, idempotent=True)


def _refund(connection: Connection, chosen: Clicks, reason: str) -> Sequence[RowMapping]:
    found = connection.execute(_open(chosen).limit(BATCH)).mappings().all()
    if not found:
        return ()
    # The locks of `serving.ledger.charging`, in its order. Another call may have refunded some before they were held.
    ids = sorted({row["campaign_id"] for row in found})
    own = campaign_spend.c.campaign_id.in_(ids)
    connection.execute(
        select(campaign_spend.c.campaign_id).where(own).order_by(campaign_spend.c.campaign_id).with_for_update()
    )
    still = charges.c.id.in_([row["id"] for row in found])
    rows = connection.execute(_open(chosen).where(still)).mappings().all()
    if not rows:
        return ()
    # Each batch has its own time: payouts of a period that is over must not change.
    now, columns = datetime.now(UTC), ("id", "kind", "campaign_id", "advertiser_id", "currency")
    entries = [
        {name: row[name] for name in columns} | {"micros": row["charged_micros"], "reason": reason, "recorded_at": now}
        for row in rows
    ]
    connection.execute(insert(refunds), entries)
    _subtract(connection, rows)
    return rows


def _open(chosen: Clicks) -> Select[Any]:
    """Return the query of valid clicks that are not refunded."""
    refunded = exists().where(refunds.c.id == charges.c.id, refunds.c.kind == charges.c.kind)
    conditions: list[ColumnElement[bool]] = [charges.c.kind == Pricing.CLICK.value, charges.c.invalid == "", ~refunded]
    named = {
        charges.c.id: chosen.click_id,
        charges.c.auction_id: chosen.auction_id,
        charges.c.source: chosen.source,
        charges.c.placement: chosen.placement,
        charges.c.campaign_id: chosen.campaign_id,
    }
    conditions += [column == value for column, value in named.items() if value]
    conditions += [charges.c.occurred_at >= chosen.since] if chosen.since else []
    conditions += [charges.c.occurred_at < chosen.until] if chosen.until else []
    return select(charges).where(*conditions).order_by(charges.c.id)


def _subtract(connection: Connection, rows: Sequence[RowMapping]) -> None:
    """Take the refunds out of the totals, in the order of their keys, and count them in their report lines."""
    of_campaign, of_day, of_advertiser = Counter[str](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    lines = defaultdict[tuple[str, ...], Counter[str]](Counter)
    for row in rows:
        micros = row["charged_micros"]
        of_campaign[row["campaign_id"]] += micros
        of_day[row["campaign_id"], row["day"]] += micros
        of_advertiser[row["advertiser_id"], row["currency"]] += micros
        line = lines[line_of(row)]
        line["invalid_clicks"] += 1
        line["refunded_micros"] += micros
    spend, day, total = campaign_spend.c, campaign_days.c, advertiser_totals.c
    mark = change_mark(connection)
    accounts = lock_limited(connection, {advertiser for advertiser, _ in of_advertiser})
    mark_changed(connection, accounts.keys() & {Account(*own) for own in of_advertiser}, mark)
    connection.execute(
        update(campaign_spend)
        .where(spend.campaign_id == bindparam("campaign"))
        .values(total_micros=spend.total_micros - bindparam("refund"), changed_in=mark),
        [{"campaign": campaign, "refund": micros} for campaign, micros in sorted(of_campaign.items())],
    )
    connection.execute(
        update(campaign_days)
        .where(day.campaign_id == bindparam("campaign"), day.day == bindparam("on"))
        .values(micros=day.micros - bindparam("refund")),
        [{"campaign": campaign, "on": on, "refund": micros} for (campaign, on), micros in sorted(of_day.items())],
    )
    connection.execute(
        update(advertiser_totals)
        .where(total.advertiser_id == bindparam("advertiser"), total.currency == bindparam("money"))
        .values(charged_micros=total.charged_micros - bindparam("refund")),
        [
            {"advertiser": a, "money": currency, "refund": micros}
            for (a, currency), micros in sorted(of_advertiser.items())
        ],
    )
    add_to_lines(connection, lines)
