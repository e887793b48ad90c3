"""The counters behind reports and curves: by campaign, creative, placement, day and model version, and by UTC hour.

They are written in the transaction that charges, so that reports and charges agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Table, bindparam, update

from mechanism.types import Micros
from serving.campaigns.dayparts import day_of
from serving.campaigns.types import Pricing
from serving.database.engine import Database
from serving.database.schema import auction_overlaps, hourly_answers, hourly_counters, report_counters
from serving.ledger.entries import Auction, ChargeEvent, Terms


class Counts(msgspec.Struct):
    """Impressions, valid clicks, clicks that were charged more than 0, and revenue."""

    impressions: int = 0
    clicks: int = 0
    charged_clicks: int = 0
    revenue_micros: Micros = 0


class ReportCounts(Counts):
    """Counts, and the auctions in which a creative took part.

    `creative_auctions` counts an auction at each of its creatives, so a sum over several creatives would count it
    repeatedly. The other fields count it at one creative only: the first of each campaign, the first of each
    advertiser and day, the first of each day; the last two for each currency. `invalid_clicks` were never charged.
    """

    creative_auctions: int = 0
    campaign_auctions: int = 0
    advertiser_auctions: int = 0
    all_auctions: int = 0
    invalid_clicks: int = 0


class AnswerCounts(msgspec.Struct):
    """Answers that had candidates, those of them that showed an ad, and the ads shown."""

    answers: int = 0
    filled: int = 0
    shown: int = 0


class Tally:
    """What one transaction adds to the counters.

    `write` adds to each table in the order of its keys. Transactions that meet there wait for each other and never
    deadlock, provided that they take these locks last.
    """

    def __init__(self) -> None:
        self._reports = defaultdict[tuple[str, ...], ReportCounts](ReportCounts)
        self._overlaps = Counter[tuple[str, ...]]()
        self._hours = defaultdict[tuple[datetime, str, str, str], Counts](Counts)
        self._answers = defaultdict[tuple[datetime, str], AnswerCounts](AnswerCounts)
        self._terms: dict[str, Terms] = {}

    def add_charge(self, event: ChargeEvent, day: str, own: Terms, charged: Micros) -> None:
        """Count a valid event; `own` are the terms of its campaign, `day` its ISO date in the campaign's time zone."""
        is_click = event.kind is Pricing.CLICK
        where = (event.placement, day, event.model_version)
        report = self._report(event.campaign_id, event.creative_id, where, own)
        hour = self._hours[hour_of(event.occurred_at), own.advertiser_id, own.currency, event.model_version]
        for counted in (report, hour):
            counted.clicks += is_click
            counted.charged_clicks += is_click and charged > 0
            counted.revenue_micros += charged

    def add_invalid(self, event: ChargeEvent, day: str, own: Terms) -> None:
        """Count a click that was invalid when it came."""
        where = (event.placement, day, event.model_version)
        self._report(event.campaign_id, event.creative_id, where, own).invalid_clicks += 1

    def add_auction(self, auction: Auction, terms: Mapping[str, Terms]) -> None:
        """Count an auction and its impressions; `terms` by campaign id."""
        campaigns: set[str] = set()
        days = defaultdict[tuple[str, str], set[str]](set)
        for entry in auction.entries:
            own = terms[entry.campaign_id]
            day = day_of(auction.occurred_at, own.time_zone)
            of_advertiser, of_all = days[own.advertiser_id, own.currency], days["", own.currency]
            where = (auction.placement, day, auction.model_version)
            counted = self._report(entry.campaign_id, entry.creative_id, where, own)
            counted.creative_auctions += 1
            counted.campaign_auctions += entry.campaign_id not in campaigns
            counted.advertiser_auctions += day not in of_advertiser
            counted.all_auctions += day not in of_all
            counted.impressions += entry.shown
            campaigns.add(entry.campaign_id)
            of_advertiser.add(day)
            of_all.add(day)
        for (advertiser, currency), found in days.items():
            for earlier, day in pairwise(sorted(found)):
                key = (advertiser, currency, auction.placement, day, earlier, auction.model_version)
                self._overlaps[key] += 1
        self._add_answer(auction, [terms[entry.campaign_id] for entry in auction.entries if entry.shown])

    def write(self, database: Database, connection: Connection) -> None:
        """Add everything to the tables."""
        rows = _rows(report_counters, self._reports)
        for row in rows:
            own = self._terms[row["campaign_id"]]
            row |= {"advertiser_id": own.advertiser_id, "currency": own.currency}
        add_to_rows(database, connection, report_counters, rows, ReportCounts.__struct_fields__)
        overlaps = [
            dict(zip(auction_overlaps.primary_key.columns.keys(), key, strict=True)) | {"auctions": number}
            for key, number in sorted(self._overlaps.items())
        ]
        add_to_rows(database, connection, auction_overlaps, overlaps, ("auctions",))
        hours = _rows(hourly_counters, self._hours)
        add_to_rows(database, connection, hourly_counters, hours, Counts.__struct_fields__)
        answers = _rows(hourly_answers, self._answers)
        add_to_rows(database, connection, hourly_answers, answers, AnswerCounts.__struct_fields__)

    def _report(self, campaign: str, creative: str, where: tuple[str, str, str], own: Terms) -> ReportCounts:
        self._terms[campaign] = own
        return self._reports[campaign, creative, *where]

    def _add_answer(self, auction: Auction, shown: Iterable[Terms]) -> None:
        hour, number = hour_of(auction.occurred_at), 0
        for owner in shown:
            self._hours[hour, owner.advertiser_id, owner.currency, auction.model_version].impressions += 1
            number += 1
        counted = self._answers[hour, auction.model_version]
        counted.answers += 1
        counted.filled += number > 0
        counted.shown += number


def hour_of(moment: datetime) -> datetime:
    """Return the start of the UTC hour of an aware moment."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def add_to_rows(
    database: Database, connection: Connection, table: Table, rows: Sequence[dict[str, Any]], added: Sequence[str]
) -> None:
    """Insert rows; where a row with the same key exists, add the columns `added` to it instead."""
    if not rows:
        return
    into = database.insert(table)
    sums = {name: table.c[name] + into.excluded[name] for name in added}
    keys = table.primary_key.columns.keys()
    connection.execute(into.on_conflict_do_update(index_elements=keys, set_=sums), list(rows))


def line_of(charge: RowMapping) -> tuple[str, ...]:
    """Return the key of the report line in which a charge record is counted."""
    return tuple(charge[column.name] for column in report_counters.primary_key.columns)


def add_to_lines(connection: Connection, added: Mapping[tuple[str, ...], Mapping[str, int]]) -> None:
    """Add to the same columns of some report lines that are on record, in the order of their keys."""
    if not added:
        return
    columns, keys = report_counters.c, report_counters.primary_key.columns.keys()
    grown = {name: columns[name] + bindparam(f"more_{name}") for name in next(iter(added.values()))}
    same = [columns[name] == bindparam(f"own_{name}") for name in keys]
    rows = [
        {f"own_{name}": part for name, part in zip(keys, line, strict=True)}
        | {f"more_{name}": number for name, number in numbers.items()}
        for line, numbers in sorted(added.items())
    ]
    connection.execute(update(report_counters).where(*same).values(grown), rows)


def _rows(table: Table, counted: Mapping[Any, msgspec.Struct]) -> list[dict[str, Any]]:
    """Return one row for each key, in the order of the keys."""
    names = table.primary_key.columns.keys()
    ordered = sorted(counted.items(), key=lambda item: item[0])
    return [dict(zip(names, key, strict=True)) | msgspec.structs.asdict(one) for key, one in ordered]
