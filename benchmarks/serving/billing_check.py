"""Compares the ledger of the billing drill with the reference, by plain SQL over its tables."""

from __future__ import annotations

from pathlib import Path

import msgspec
from sqlalchemy import Connection, text

from benchmarks.serving.billing_reference import Expected, Terms
from benchmarks.serving.billing_writer import CONSUMER
from serving.database.engine import Database

DAYS = "SELECT campaign_id, day, SUM(charged_micros) FROM charges GROUP BY campaign_id, day"
# Every total that the ledger keeps, each to be the sum of its charges.
TOTALS = (
    ("SELECT campaign_id, total_micros FROM campaign_spend", "campaign_id"),
    ("SELECT campaign_id, SUM(micros) FROM campaign_days GROUP BY campaign_id", "campaign_id"),
    ("SELECT campaign_id, SUM(revenue_micros) FROM report_counters GROUP BY campaign_id", "campaign_id"),
    ("SELECT advertiser_id, charged_micros FROM advertiser_totals", "advertiser_id"),
)


class Comparison(msgspec.Struct, kw_only=True):
    """Ledger against reference. All but the first two, and the numbers of records and clicks, must be 0."""

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
        """Whether the ledger is the reference, to the micro and to the record."""
        wrong = (self.overspent_campaigns, self.wrong_campaigns, self.wrong_days, self.wrong_advertisers)
        same = (self.charged_micros, self.records, self.clicks)
        wanted = (self.expected_micros, self.expected_records, self.expected_clicks)
        return not any((*wrong, self.wrong_totals, self.wrong_offsets)) and same == wanted


def compare(database: Database, terms: dict[str, Terms], files: tuple[Path, ...], wanted: Expected) -> Comparison:
    """Reads the ledger and counts where it is not what it must be."""
    with database.read() as connection:
        days = {(c, d): int(micros) for c, d, micros in connection.execute(text(DAYS))}
        campaigns, advertisers = _sums(connection, "campaign_id"), _sums(connection, "advertiser_id")
        by_column = {"campaign_id": campaigns, "advertiser_id": advertisers}
        totals = [(by_column[column], _pairs(connection, query)) for query, column in TOTALS]
        asked = "SELECT partition, next_offset FROM consumer_offsets WHERE consumer = :consumer"
        offsets = {int(p): int(o) for p, o in connection.execute(text(asked), {"consumer": CONSUMER})}
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
