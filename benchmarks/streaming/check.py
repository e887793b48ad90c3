"""The comparison of judgements, lake and ledger with the producer's reference file.

Everything is read plainly and compared by sets and sums, without the workers' code or their counters.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from sqlalchemy import create_engine, text

from benchmarks.streaming.traffic import Expected
from serving.database.engine import parsed
from streaming.lake import TrainingSet
from streaming.lake.store import Lake
from streaming.log import EventLog
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS

PRICE = 200_000
"""Micros of every valid click of the traffic."""
SHOWN = 2
"""Ads in every answer of the traffic."""


class Comparison(msgspec.Struct, kw_only=True):
    """Numbers of entries at each stage, and of differences from the reference.

    produced, clicks           interactions and clicked links in the reference
    judged, stored, counted    auctions in the judgements, the training set and the ledger
    stored_clicks, charged     clicked links in the training set and the ledger
    lost, doubled, wrong       missing entries, surplus entries, entries with another value
    """

    produced: int = 0
    clicks: int = 0
    judged: int = 0
    stored: int = 0
    stored_clicks: int = 0
    counted: int = 0
    charged: int = 0
    expected_micros: int = 0
    charged_micros: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0

    @property
    def exact(self) -> bool:
        """Whether there is no difference from the reference."""
        return self.lost == self.doubled == self.wrong == 0


def expectations(path: Path) -> dict[str, dict[str, float]]:
    """Return the clicked ads with their seconds, by auction."""
    decoder = msgspec.json.Decoder(Expected)
    with path.open("rb") as file:
        return {line.id: line.clicked for line in map(decoder.decode, file)}


def compare(reference: Path, log: EventLog, lake: str, database: str) -> Comparison:
    """Compare everything; needs some hundred bytes of memory an interaction."""
    expected = expectations(reference)
    found = Comparison(produced=len(expected), clicks=sum(map(len, expected.values())))
    found.expected_micros = PRICE * found.clicks
    judged = _judged(log)
    found.judged = len(judged)
    found.lost += len(expected.keys() - judged)
    _compare_tables(log, lake, found)
    _compare_training_set(expected, lake, found)
    _compare_ledger(expected, database, found)
    return found


def _judged(log: EventLog) -> set[str]:
    judged: set[str] = set()
    with log.consumer("", [JUDGEMENTS]) as consumer:
        ends = consumer.ends()
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            judged.update(record.key.decode() for record in consumer.poll(1.0, 10_000))
    return judged


def _compare_tables(log: EventLog, lake: str, found: Comparison) -> None:
    """Compare the tables with the log: each record is one row."""
    for topic in (INTERACTIONS, CLICKS, JUDGEMENTS):
        with log.consumer("", [topic]) as consumer:
            records = sum(consumer.ends().values())
        rows = Lake(lake).open(topic).to_pyarrow_table(columns=["log_partition", "log_offset"])
        places = Counter(zip(*(rows.column(name).to_pylist() for name in rows.column_names), strict=True))
        found.lost += max(0, records - len(places))
        found.doubled += rows.num_rows - len(places)


def _compare_training_set(expected: Mapping[str, Mapping[str, float]], lake: str, found: Comparison) -> None:
    seen = Counter[str]()
    for table in TrainingSet(lake).tables(columns=["auction_id", "judge", "clicks"], usable=False):
        for row in table.to_pylist():
            auction, clicked = row["auction_id"], {ad["ad_id"]: ad["clicked_after_s"] for ad in row["clicks"] or ()}
            seen[auction] += 1
            found.lost += row["judge"] is None
            wanted = expected.get(auction, {})
            found.stored_clicks += len(clicked)
            found.lost += len(wanted.keys() - clicked.keys())
            found.doubled += len(clicked.keys() - wanted.keys())
            both = wanted.keys() & clicked.keys()
            found.wrong += sum(not math.isclose(wanted[ad], clicked[ad], abs_tol=1e-5) for ad in both)
    found.stored = len(seen)
    found.lost += len(expected.keys() - seen.keys())
    found.doubled += sum(times - 1 for times in seen.values()) + len(seen.keys() - expected.keys())


def _compare_ledger(expected: Mapping[str, Mapping[str, float]], url: str, found: Comparison) -> None:
    wanted = {f"{auction}:{ad}" for auction, clicked in expected.items() for ad in clicked}
    engine = create_engine(parsed(url))
    try:
        with engine.connect() as connection:
            charged = list(connection.execute(text("SELECT id, charged_micros FROM charges WHERE invalid = ''")))
            counted = [name for (name,) in connection.execute(text("SELECT id FROM auctions"))]
            sums = {
                name: int(connection.execute(text(f"SELECT coalesce(sum({name}), 0) FROM {table}")).scalar_one())
                for name, table in (
                    ("total_micros", "campaign_spend"),
                    ("micros", "campaign_days"),
                    ("charged_micros", "advertiser_totals"),
                    ("revenue_micros", "report_counters"),
                    ("impressions", "report_counters"),
                    ("clicks", "report_counters"),
                    ("all_auctions", "report_counters"),
                    ("answers", "hourly_answers"),
                )
            }
    finally:
        engine.dispose()
    ids = {name for name, _ in charged}
    found.charged, found.charged_micros = len(charged), sum(micros for _, micros in charged)
    found.counted = len(counted)
    found.lost += len(wanted - ids) + len(expected.keys() - set(counted))
    found.doubled += len(charged) - len(ids & wanted) + len(counted) - len(expected.keys() & set(counted))
    right = {name: found.expected_micros for name in ("total_micros", "micros", "charged_micros", "revenue_micros")}
    right |= {"impressions": SHOWN * len(expected), "clicks": len(wanted)}
    right |= {"all_auctions": len(expected), "answers": len(expected)}
    found.wrong += sum(sums[name] != value for name, value in right.items())
    found.wrong += found.charged_micros != found.expected_micros
