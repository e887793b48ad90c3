"""Payouts: what advertisers paid on each placement in a period, and how it is shared with the placement's publisher.

A charge counts in the period in which it was booked, a refund in the period of its own entry, so that a period never
changes once it is over, and periods add up to the whole ledger. The publisher's part of each charge was fixed when it
was booked; the platform has the rest, so both add up to the charges to the micro.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Select, select

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.database.columns import checked_day, sum_of
from serving.database.engine import Database
from serving.database.schema import charges, refunds
from serving.reports.reports import escaped

FIGURES = ("charged_micros", "refunded_micros", "publisher_micros", "platform_micros")


class Payout(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a payout. `publisher_id` is empty for placements of no publisher, whose revenue is the platform's.

    `publisher_micros` and `platform_micros` add up to `charged_micros` less `refunded_micros`. They are negative where
    a period refunds more than it charges.
    """

    publisher_id: str
    placement: str
    currency: str
    charged_micros: Micros
    refunded_micros: Micros
    publisher_micros: Micros
    platform_micros: Micros


def payouts(database: Database, first_day: str, last_day: str, publisher_id: str = "") -> list[Payout]:
    """Return the payouts of a period of UTC days, both included, of one publisher or of all.

    Raises:
        InputError: if a day is no ISO date, or the period is empty.
    """
    since, until = _midnight("first_day", first_day), _midnight("last_day", last_day) + timedelta(days=1)
    if since >= until:
        raise InputError("first_day", first_day, f"it is after last_day, {last_day}")
    own = [charges.c.publisher_id == publisher_id] if publisher_id else []
    same = (refunds.c.id == charges.c.id) & (refunds.c.kind == charges.c.kind) & (charges.c.invalid == "")
    charged = _sums(charges.c.charged_micros).where(charges.c.recorded_at >= since, charges.c.recorded_at < until, *own)
    refunded = (
        _sums(refunds.c.micros)
        .select_from(refunds.join(charges, same))
        .where(refunds.c.recorded_at >= since, refunds.c.recorded_at < until, *own)
    )
    lines: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    with database.read() as connection:
        for publisher, placement, currency, micros, share in connection.execute(charged):
            line = lines[publisher, placement, currency]
            line[0], line[2] = line[0] + micros, line[2] + share
        for publisher, placement, currency, micros, share in connection.execute(refunded):
            line = lines[publisher, placement, currency]
            line[1], line[2] = line[1] + micros, line[2] - share
    return [
        Payout(
            publisher_id=publisher,
            placement=placement,
            currency=currency,
            charged_micros=gross,
            refunded_micros=back,
            publisher_micros=share,
            platform_micros=gross - back - share,
        )
        for (publisher, placement, currency), (gross, back, share) in sorted(lines.items())
    ]


def payouts_csv(lines: Sequence[Payout]) -> str:
    """Return one CSV row per line, under a header; amounts in micros of the currency."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["publisher_id", "placement", "currency", *FIGURES])
    for line in lines:
        names = [escaped(name) for name in (line.publisher_id, line.placement, line.currency)]
        writer.writerow([*names, *(getattr(line, name) for name in FIGURES)])
    return text.getvalue()


def _sums(micros: ColumnElement[int]) -> Select[Any]:
    keys = (charges.c.publisher_id, charges.c.placement, charges.c.currency)
    return select(*keys, sum_of(micros), sum_of(charges.c.publisher_micros)).group_by(*keys)


def _midnight(name: str, text: str) -> datetime:
    day = checked_day(name, text)
    if not 2000 <= day.year < 9999:
        raise InputError(name, text, "give a day from 2000 on")
    return datetime.combine(day, time(), UTC)
