"""The billing drill's reference, computed without the ledger's code, and the comparison of the ledger with it.

The reference shares neither code nor method with the ledger: it does not charge one event after another. Budgets are
nested (each day's within the total), so a campaign pays min(total budget, sum over days of min(daily budget, prices of
that day)). The comparison reads the ledger's tables by plain SQL.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, text

from benchmarks.serving.billing_traffic import CONSUMER
from serving.database.engine import Database

DAYS = "SELECT campaign_id, day, SUM(charged_micros) FROM charges GROUP BY campaign_id, day"
TOTALS = (
    ("SELECT campaign_id, total_micros FROM campaign_spend", "campaign_id"),
    ("SELECT campaign_id, SUM(micros) FROM campaign_days GROUP BY campaign_id", "campaign_id"),
    ("SELECT campaign_id, SUM(revenue_micros) FROM report_counters GROUP BY campaign_id", "campaign_id"),
    ("SELECT advertiser_id, charged_micros FROM advertiser_totals", "advertiser_id"),
)
"""Every total that the ledger keeps, with the column by which it must equal the sum of the charges."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a campaign that the reference needs."""

    advertiser: str
    zone: str
    daily: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Expected:
    """What the ledger must hold after all files are charged.

    campaigns    micros by campaign
    advertisers  micros by advertiser
    days         micros by (campaign, day), where they do not depend on the order of events
    records      number of different events
    clicks       number of valid clicks among them
    lines        number of lines by file
    """

    campaigns: dict[str, int]
    advertisers: dict[str, int]
    days: dict[tuple[str, str], int]
    records: int
    clicks: int
    lines: dict[str, int]


def expected(terms: dict[str, Terms], files: Iterable[Path]) -> Expected:
    """Compute from the files of events what must have been charged in the end."""
    events, lines = {}, {}
    for path in files:
        own = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        lines[path.stem] = len(own)
        events.update({event["id"]: event for event in own})
    prices_by_day: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    clicks = 0
    for event in events.values():
        if not event["invalid"]:
            clicks += 1
            moment = datetime.fromisoformat(event["occurred_at"].replace("Z", "+00:00"))
            day = moment.astimezone(ZoneInfo(terms[event["campaign_id"]].zone)).date().isoformat()
            prices_by_day[event["campaign_id"]][day] += event["price_micros"]
    campaigns, days = {}, {}
    advertisers: dict[str, int] = defaultdict(int)
    for name, own_terms in terms.items():
        capped = {
            d: prices if own_terms.daily is None else min(prices, own_terms.daily)
            for d, prices in prices_by_day[name].items()
        }
        whole = sum(capped.values())
        campaigns[name] = whole if own_terms.total is None else min(whole, own_terms.total)
        advertisers[own_terms.advertiser] += campaigns[name]
        if campaigns[name] == whole:
            days.update({(name, day): micros for day, micros in capped.items()})
    return Expected(campaigns, dict(advertisers), days, len(events), clicks, lines)


class Comparison(msgspec.Struct, kw_only=True):
    """The ledger compared with the reference: sums, numbers of wrong totals, numbers of records and clicks."""

    expected_micros: int
    charged_micros: int
    overspent_campaigns: int
    wrong_campaigns: int
    wrong_days: int
    wrong_advertisers: int
    wrong_totals: int
    wrong_offsets: int
    expected_records: int
    records: int
    expected_clicks: int
    clicks: int

    @property
    def exact(self) -> bool:
        """Whether the ledger equals the reference, to the micro and to the record."""
        wrong = (self.overspent_campaigns, self.wrong_campaigns, self.wrong_days, self.wrong_advertisers)
        same = (self.charged_micros, self.records, self.clicks)
        wanted = (self.expected_micros, self.expected_records, self.expected_clicks)
        return not any((*wrong, self.wrong_totals, self.wrong_offsets)) and same == wanted


def compare(database: Database, terms: dict[str, Terms], files: tuple[Path, ...], wanted: Expected) -> Comparison:
    """Read the ledger and count its differences from the reference."""
    with database.read() as connection:
        days = {(c, d): int(micros) for c, d, micros in connection.execute(text(DAYS))}
        campaigns, advertisers = _sums(connection, "campaign_id"), _sums(connection, "advertiser_id")
        by_column = {"campaign_id": campaigns, "advertiser_id": advertisers}
        totals = [(by_column[column], _pairs(connection, statement)) for statement, column in TOTALS]
        query = "SELECT partition, next_offset FROM consumer_offsets WHERE consumer = :consumer"
        offsets = {int(p): int(o) for p, o in connection.execute(text(query), {"consumer": CONSUMER})}
        records = connection.execute(text("SELECT COUNT(*) FROM charges")).scalar_one()
        clicks = connection.execute(text("SELECT SUM(clicks) FROM report_counters")).scalar_one()
    overspent = {c for c, total in campaigns.items() if (limit := terms[c].total) is not None and total > limit}
    overspent |= {c for (c, _), micros in days.items() if (limit := terms[c].daily) is not None and micros > limit}
    return Comparison(
        expected_micros=sum(wanted.campaigns.values()),
        charged_micros=sum(campaigns.values()),
        overspent_campaigns=len(overspent),
        wrong_campaigns=_differences(campaigns, wanted.campaigns),
        wrong_days=sum(days.get(key, 0) != micros for key, micros in wanted.days.items()),
        wrong_advertisers=_differences(advertisers, wanted.advertisers),
        wrong_totals=sum(_differences(kept, sums) for sums, kept in totals),
        wrong_offsets=sum(offsets.get(n) != wanted.lines[path.stem] for n, path in enumerate(files)),
        expected_records=wanted.records,
        records=int(records),
        expected_clicks=wanted.clicks,
        clicks=int(clicks or 0),
    )


def _sums(connection: Connection, column: str) -> dict[str, int]:
    return _pairs(connection, f"SELECT {column}, SUM(charged_micros) FROM charges GROUP BY {column}")


def _pairs(connection: Connection, query: str) -> dict[str, int]:
    return {name: int(micros) for name, micros in connection.execute(text(query))}


def _differences(one: dict[str, int], other: dict[str, int]) -> int:
    return sum(one.get(name, 0) != other.get(name, 0) for name in one.keys() | other.keys())
