"""Revenue and experience over time: the hourly counters as points of a curve, by hour or by UTC day.

Money of different currencies is never added: each point has one currency. For sums by campaign and by the campaigns'
own days see `serving.reports.reports`.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, select

from mechanism.errors import InputError
from mechanism.types import Micros
from serving.database.columns import checked_moment, sum_of
from serving.database.engine import Database
from serving.database.schema import hourly_answers, hourly_counters
from serving.ledger.counters import hour_of

MOST_STEPS = 744


class Step(StrEnum):
    """The length of a step on the time axis."""

    HOUR = "hour"
    DAY = "day"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The last `count` hours or UTC days up to `now`, including the current one.

    It is limited to one advertiser and to one model version, unless these are empty.
    """

    step: Step
    count: int
    now: datetime
    advertiser_id: str = ""
    model_version: str = ""

    def __post_init__(self) -> None:
        checked_moment("now", self.now)
        if not 1 <= self.count <= MOST_STEPS:
            raise InputError("count", self.count, f"give a whole number from 1 to {MOST_STEPS}")

    @property
    def starts(self) -> tuple[datetime, ...]:
        """The start of each step, the oldest first."""
        last, width = _start(self.now, self.step), timedelta(hours=24 if self.step is Step.DAY else 1)
        return tuple(last - back * width for back in reversed(range(self.count)))


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one model version in one step and one currency.

    A click counts at its own time, which may be a step after its impression.
    """

    start: datetime
    model_version: str
    currency: str
    impressions: int
    clicks: int
    charged_clicks: int
    revenue_micros: Micros


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of one model version that had candidates, those that showed an ad (`filled`), and the ads shown."""

    start: datetime
    model_version: str
    answers: int
    filled: int
    shown: int


def points(database: Database, window: Window) -> list[Point]:
    """Return the points of the steps in which anything happened, oldest first."""
    own = [hourly_counters.c.advertiser_id == window.advertiser_id] if window.advertiser_id else []
    rows = _summed(database, window, hourly_counters, ("currency", "model_version"), own)
    return [Point(**row) for row in rows]


def answers(database: Database, window: Window) -> list[Answers]:
    """Return the counts of answers, oldest first; the window's advertiser does not limit them."""
    rows = _summed(database, window, hourly_answers, ("model_version",), [])
    return [Answers(**row) for row in rows]


def _summed(
    database: Database, window: Window, table: Table, keys: tuple[str, ...], own: list[ColumnElement[bool]]
) -> list[dict[str, Any]]:
    # The database adds up hours, this function days: truncating moments is different SQL on each database.
    names = [column.name for column in table.columns if not column.primary_key]
    conditions = [table.c.hour >= window.starts[0], table.c.hour <= window.now, *own]
    if window.model_version:
        conditions.append(table.c.model_version == window.model_version)
    by = [table.c.hour, *(table.c[key] for key in keys)]
    sums = [sum_of(table.c[name]).label(name) for name in names]
    found: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys(names, 0))
    with database.read() as connection:
        for row in connection.execute(select(*by, *sums).where(*conditions).group_by(*by)).mappings():
            total = found[_start(row["hour"], window.step), *(row[key] for key in keys)]
            for name in names:
                total[name] += row[name]
    return [dict(zip(("start", *keys), key, strict=True)) | total for key, total in sorted(found.items())]


def _start(moment: datetime, step: Step) -> datetime:
    hour = hour_of(moment)
    return hour.replace(hour=0) if step is Step.DAY else hour
