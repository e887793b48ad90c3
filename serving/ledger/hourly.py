"""Counters by the UTC hour behind curves over time: coarser than a report's in whose they are, so that a year stays
small. Written in the transaction that charges or counts; read by `serving.reports.series`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Table

from mechanism.types import Micros
from serving.database.engine import Database
from serving.database.schema import hourly_answers, hourly_counters
from serving.ledger.events import Terms


def hour_of(moment: datetime) -> datetime:
    """The UTC hour of an aware moment."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


class Hours:
    """Gathers what a batch adds to the hours, and adds it at the end, in the order of the keys: writers that meet
    there wait and never deadlock, as long as they take these locks last."""

    def __init__(self) -> None:
        self._counters: dict[tuple[datetime, str, str, str], list[int]] = defaultdict(lambda: [0] * 4)
        self._answers: dict[tuple[datetime, str], list[int]] = defaultdict(lambda: [0] * 3)

    def answer(self, moment: datetime, model_version: str, shown: Iterable[Terms]) -> None:
        """An answer that had candidates, and of each ad shown whose it is."""
        hour, count = hour_of(moment), 0
        for owner in shown:
            self._counters[hour, owner.advertiser_id, owner.currency, model_version][0] += 1
            count += 1
        total = self._answers[hour, model_version]
        for index, one in enumerate((1, count > 0, count)):
            total[index] += one

    def charge(self, moment: datetime, model_version: str, owner: Terms, is_click: bool, charged: Micros) -> None:
        """A valid event and what it was charged."""
        total = self._counters[hour_of(moment), owner.advertiser_id, owner.currency, model_version]
        for index, one in enumerate((is_click, is_click and charged > 0, charged), start=1):
            total[index] += one

    def add(self, database: Database, connection: Connection) -> None:
        """Adds everything to the tables."""
        _add(database, connection, hourly_counters, self._counters)
        _add(database, connection, hourly_answers, self._answers)


def _add(database: Database, connection: Connection, table: Table, totals: Mapping[tuple[Any, ...], list[int]]) -> None:
    names = [column.name for column in table.columns]
    keys = [column.name for column in table.primary_key]
    rows = [dict(zip(names, (*key, *total), strict=True)) for key, total in sorted(totals.items())]
    if rows:
        into = database.insert(table)
        added = {name: table.c[name] + into.excluded[name] for name in names[len(keys) :]}
        connection.execute(into.on_conflict_do_update(index_elements=keys, set_=added), rows)
