"""The ledger worker: the events of a log are charged once, through repetitions, restarts and refusals."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.streaming.event_samples import click, clicks, interaction
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.ledger.background import LedgerThread
from serving.ledger.entries import ChargeEvent, ChargeResult
from serving.ledger.worker import LedgerSettings, LedgerTask, behind
from serving.reports.reports import Query, charges_of, report
from streaming.codec import encode, topic_of
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent, Interaction, Participation, ShownAd
from streaming.log import Fenced
from streaming.topics import CLICKS, INTERACTIONS, all_topics
from streaming.workers.letters import letters
from streaming.workers.loop import Worker
from streaming.workers.task import Batch, arrival
from tests.serving.database.samples import NOW, campaign, creative


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    migrate(url)
    database = Database(url)
    for number in range(3):
        CampaignStore(database).create(
            campaign(number, creatives=(creative(f"A{number}"),), bid_micros=1, starts_at=NOW), NOW
        )
    yield database
    database.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log", durable=False)
    log.create(all_topics())
    yield log
    log.close()


def write(log: EmbeddedLog, *events: AnyEvent) -> None:
    producer = log.producer()
    for event in events:
        producer.append(topic_of(event), event.key.encode(), encode(event))
    producer.close()


def charge(log: EmbeddedLog, database: Database, **settings: float) -> LedgerTask:
    """Run a worker that books everything in the log, and ends."""
    task = LedgerTask(log, database, LedgerSettings(**{"gathered_s": 0.0} | settings))  # type: ignore[arg-type]
    Worker(task, log, poll_s=0.01).run(threading.Event(), until_idle=True)
    return task


def traffic(count: int) -> tuple[list[Interaction], list[AnyEvent]]:
    shown = [interaction(number) for number in range(count)]
    return shown, [c for number, event in enumerate(shown) for c in clicks(event, number)]


def totals(database: Database) -> tuple[int, int, int]:
    """Return the impressions, clicks and micros of all reports."""
    lines = report(database, Query())
    return sum(x.impressions for x in lines), sum(x.clicks for x in lines), sum(x.revenue_micros for x in lines)


def test_repeated_events_are_charged_once_and_offsets_are_stored(log: EmbeddedLog, database: Database) -> None:
    shown, clicked = traffic(60)
    for _ in range(2):
        write(log, *shown, *clicked)
    charge(log, database)
    assert totals(database) == (120, len(clicked), 200_000 * len(clicked))
    assert set(behind(log, database).values()) == {0}
    charge(log, database)
    assert totals(database)[1:] == (len(clicked), 200_000 * len(clicked))


def test_small_transactions_charge_the_same(log: EmbeddedLog, database: Database) -> None:
    shown, clicked = traffic(60)
    write(log, *clicked, *shown)
    charge(log, database, charges=3, entries=7)
    assert totals(database) == (120, len(clicked), 200_000 * len(clicked))


def test_a_click_without_a_model_version_is_charged_under_that_of_its_auction(
    log: EmbeddedLog, database: Database
) -> None:
    first, second, third = (interaction(number) for number in range(3))
    unversioned = [
        msgspec.structs.replace(click(event, "A0", 2.0), model_version="") for event in (first, second, third)
    ]
    write(log, first)
    charge(log, database)
    write(log, *unversioned, second)
    charge(log, database)
    versions = [charges_of(database, event_id=event.click_id).items[0].model_version for event in unversioned]
    assert versions == ["1", "1", ""]  # auction on record, in the same transaction, unknown: charged in every case
    assert totals(database)[1:] == (3, 600_000)


def test_the_thread_reports_charges_and_books_everything_before_it_stops(log: EmbeddedLog, database: Database) -> None:
    event, reported = interaction(1), list[tuple[ChargeEvent, ChargeResult]]()
    write(log, event, click(event, "A0", 2.0), click(event, "A0", 1.0, reason="prefetch"))
    thread = LedgerThread(log, database, lambda *both: reported.append(both), 0.01)
    thread.start()
    thread.stop(30)
    results = {(result.reason, result.charged_micros) for _, result in reported}
    assert results == {("invalid:prefetch", 0), ("", 200_000)}
    assert totals(database) == (2, 1, 200_000)


def test_refused_events_go_to_the_dead_letters_and_delay_no_others(log: EmbeddedLog, database: Database) -> None:
    shown, clicked = traffic(30)
    unknown = interaction(100)
    candidates = tuple(msgspec.structs.replace(c, campaign_id="c9") for c in unknown.candidates)
    bad = [
        msgspec.structs.replace(unknown, candidates=candidates),
        msgspec.structs.replace(click(interaction(101), "A0", 2.0), currency="USD"),
        msgspec.structs.replace(click(interaction(102), "A1", 2.0), campaign_id="c\0"),
    ]
    write(log, *shown, *clicked[:5], *bad, *clicked[5:])
    registry = CollectorRegistry()
    task = LedgerTask(log, database, LedgerSettings(gathered_s=0.0), registry=registry)
    Worker(task, log, poll_s=0.01).run(threading.Event(), until_idle=True)
    charge(log, database)
    assert totals(database) == (60, len(clicked), 200_000 * len(clicked))
    reasons = [origin.error for topic in (INTERACTIONS, CLICKS) for _, origin in letters(log, topic)]
    assert len(reasons) == 3
    assert all("campaign" in reason or "NUL" in reason for reason in reasons)
    assert registry.get_sample_value("llm_auction_ledger_refused_total", {"topic": CLICKS}) == 2


def test_impressions_and_participations_are_charged_from_the_interaction(log: EmbeddedLog, database: Database) -> None:
    event = msgspec.structs.replace(
        interaction(1),
        shown=(ShownAd(ad_id="A0", pricing="impression", price_micros=700),),
        participations=(Participation(ad_id="A2", price_micros=30),),
        reader=None,
    )
    failed = msgspec.structs.replace(interaction(2), outcome="failed", shown=(), reader=None)
    write(log, event, failed, event)
    charge(log, database)
    kinds = {(r.creative_id, r.kind, r.charged_micros) for r in charges_of(database, auction_id=event.auction_id).items}
    assert kinds == {("A0", "impression", 700), ("A2", "participation", 30)}
    assert totals(database) == (1, 0, 730)
    assert sum(line.auctions for line in report(database, Query())) == 1  # a failed answer counts for no campaign


def test_another_log_is_read_from_its_beginning(log: EmbeddedLog, database: Database, tmp_path: Path) -> None:
    # Offsets belong to one log: the first records of a new log on the same database must be read.
    shown, clicked = traffic(40)
    write(log, *shown[:20], *(c for c in clicked if c.key in {s.key for s in shown[:20]}))
    charge(log, database)
    other = EmbeddedLog(tmp_path / "other", durable=False)
    other.create(all_topics())
    write(other, *shown[20:], *(c for c in clicked if c.key in {s.key for s in shown[20:]}))
    charge(other, database)
    other.close()
    assert totals(database) == (80, len(clicked), 200_000 * len(clicked))


def test_a_worker_that_another_one_overtook_is_fenced_and_charges_nothing(log: EmbeddedLog, database: Database) -> None:
    shown, clicked = traffic(20)
    write(log, *shown, *clicked)
    slow = LedgerTask(log, database, LedgerSettings(gathered_s=0.0))
    with log.consumer("", slow.topics) as consumer:
        slow.assigned(sorted(consumer.assignment()))
        records = consumer.poll(1, 20)
        charge(log, database)
        with pytest.raises(Fenced, match="another worker"):
            slow.process(Batch([arrival(r) for r in records], {r.place: r.offset + 1 for r in records}))
        assert totals(database) == (40, len(clicked), 200_000 * len(clicked))
        started = slow.assigned(sorted(consumer.assignment()))
        assert started == consumer.ends(), "it continues where the other one is, without what it had gathered"
        slow.process(Batch())
    assert totals(database) == (40, len(clicked), 200_000 * len(clicked))


def test_two_workers_with_one_member_charge_everything_once(log: EmbeddedLog, database: Database) -> None:
    shown, clicked = traffic(120)
    stop = threading.Event()
    tasks = [LedgerTask(log, database, LedgerSettings(gathered_s=0.0)) for _ in range(2)]
    threads = [threading.Thread(target=Worker(t, log, poll_s=0.01, pauses_s=(0.01,)).run, args=(stop,)) for t in tasks]
    for thread in threads:
        thread.start()
    for first in range(0, 120, 10):
        write(log, *shown[first : first + 10])
    write(log, *clicked)
    end = time.monotonic() + 60
    while any(behind(log, database).values()) and time.monotonic() < end:
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert totals(database) == (240, len(clicked), 200_000 * len(clicked))


def test_the_worker_waits_for_a_locked_database(log: EmbeddedLog, database: Database) -> None:
    shown, clicked = traffic(10)
    write(log, *shown, *clicked)
    lock = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    thread = LedgerThread(log, database, lambda *_: None, 0.01)
    thread.start()
    threading.Event().wait(0.3)
    assert totals(database) == (0, 0, 0)
    lock.execute("ROLLBACK")
    lock.close()
    thread.stop(30)
    assert totals(database) == (20, len(clicked), 200_000 * len(clicked))


def test_days_and_hours_are_those_of_the_event(log: EmbeddedLog, database: Database) -> None:
    early = interaction(1, NOW - timedelta(days=2))
    write(log, early, click(early, "A1", 1.0))
    charge(log, database)
    (line,) = report(database, Query(last_day="2026-11-22"))
    assert line.revenue_micros == 200_000
