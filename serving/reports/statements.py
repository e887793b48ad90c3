"""Statements of advertisers' accounts by calendar month, in UTC: what was there, came in, was charged and is left.

An entry counts in the month in which it was booked, as in payouts (`serving.reports.payouts`), so that a month never
changes once it is over. Balances are computed back from today's totals, so that a statement reads no entry before its
month.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, CompoundSelect, Select, Table, false, literal, select, union_all

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.database.columns import sum_of
from serving.database.engine import Database
from serving.database.schema import advertiser_accounts, advertiser_totals, charges, payments, refunds
from serving.reports.reports import escaped

FIGURES = ("opening_micros", "payments_micros", "charges_micros", "refunds_micros", "closing_micros")
COMPLETE_AFTER = timedelta(minutes=5)
"""By then every transaction of a month is committed: the database ends longer ones."""
_SIGNS = {"payment": 1, "charge": -1, "refund": 1}
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A month of one account.

    `closing_micros` is `opening_micros` and `payments_micros` less `charges_micros` plus `refunds_micros`; a negative
    balance is owed. `final` is False while the month may still get entries.
    """

    advertiser_id: str
    currency: str
    month: str
    opening_micros: Micros
    payments_micros: Micros
    charges_micros: Micros
    refunds_micros: Micros
    closing_micros: Micros
    final: bool


def statements(database: Database, month: str, now: datetime, advertiser_id: str = "") -> list[Statement]:
    """Return a month's statements of one advertiser's accounts, or of all, by advertiser and currency.

    Accounts with no balance and no entry in the month are left out. A month that is malformed, or has not begun by
    `now`, is an InputError.
    """
    since, until = _bounds(month, now)
    balances, during = Counter[tuple[str, str]](), defaultdict[tuple[str, str], Counter[str]](Counter)
    seen: set[tuple[str, str]] = set()
    with database.read() as connection:
        for kind, advertiser, currency, in_month, micros in connection.execute(_sums(since, until, advertiser_id)):
            key = (advertiser, currency)
            if kind == "total":
                balances[key] += micros
            elif in_month:
                during[key][kind] += micros
            else:  # booked after the month
                balances[key] -= _SIGNS[kind] * micros
            if micros:
                seen.add(key)
    found = []
    for key in sorted(seen):
        own, closing = during[key], balances[key]
        opening = closing - sum(_SIGNS[kind] * micros for kind, micros in own.items())
        if not (opening or closing or own):
            continue
        found.append(
            Statement(
                advertiser_id=key[0],
                currency=key[1],
                month=month,
                opening_micros=opening,
                payments_micros=own["payment"],
                charges_micros=own["charge"],
                refunds_micros=own["refund"],
                closing_micros=closing,
                final=now >= until + COMPLETE_AFTER,
            )
        )
    return found


def statements_csv(lines: Sequence[Statement]) -> str:
    """Return one CSV row per statement, under a header; amounts in micros of the currency."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["advertiser_id", "currency", "month", *FIGURES, "final"])
    for line in lines:
        figures = [getattr(line, name) for name in FIGURES]
        writer.writerow([escaped(line.advertiser_id), line.currency, line.month, *figures, str(line.final).lower()])
    return text.getvalue()


def _bounds(month: str, now: datetime) -> tuple[datetime, datetime]:
    """Return the first moment of a month and of the next one.

    Raises:
        InputError: if the month is malformed, or has not begun.
    """
    found = _MONTH.fullmatch(month)
    if found is None or not 2000 <= int(found[1]) < 9999:
        raise InputError("month", month, "give a month from 2000 on, such as 2026-11")
    since = datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)
    if since > now:
        raise InputError("month", month, "it has not begun in UTC: give this month or an earlier one")
    return since, (since + timedelta(days=32)).replace(day=1)


def _sums(since: datetime, until: datetime, advertiser_id: str) -> CompoundSelect[Any]:
    """Return today's totals, and the sums in the month and after it.

    One statement, so that all of its parts see the same state of the ledger.
    """

    def totals(table: Table, micros: ColumnElement[int]) -> Select[Any]:
        query = select(literal("total"), table.c.advertiser_id, table.c.currency, false(), micros)
        return query.where(table.c.advertiser_id == advertiser_id) if advertiser_id else query

    def entries(kind: str, table: Table, micros: ColumnElement[int]) -> Select[Any]:
        in_month = table.c.recorded_at < until
        key = (table.c.advertiser_id, table.c.currency, in_month)
        query = select(literal(kind), *key, sum_of(micros)).where(table.c.recorded_at >= since).group_by(*key)
        return query.where(table.c.advertiser_id == advertiser_id) if advertiser_id else query

    return union_all(
        totals(advertiser_accounts, advertiser_accounts.c.paid_micros),
        totals(advertiser_totals, -advertiser_totals.c.charged_micros),
        entries("payment", payments, payments.c.micros),
        entries("charge", charges, charges.c.charged_micros),
        entries("refund", refunds, refunds.c.micros),
    )
