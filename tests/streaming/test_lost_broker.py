"""Three Kafka brokers, of which one is lost while events flow: every event is charged, and charged once."""

from __future__ import annotations

import gc
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from benchmarks.streaming.event_samples import clicks, interaction
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.ledger.worker import LedgerSettings, LedgerTask, behind
from serving.reports.reports import Query, report
from streaming.events import AnyEvent
from streaming.kafka.log import KafkaLog
from streaming.log import Member
from streaming.producer import EventProducer
from streaming.topics import INTERACTIONS, all_topics
from streaming.workers.loop import Worker
from tests.serving.database.samples import NOW, campaign, creative
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.java import BrokerMissing

# kafka-python leaves a socket behind for every connection that fails.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
WAIT_S = 120.0
COUNT = 1_500


@pytest.fixture
def brokers(caplog: pytest.LogCaptureFixture) -> Iterator[KafkaBroker]:
    # A captured record would keep the connection that it is about, and its socket, until the session ends.
    caplog.set_level(logging.CRITICAL, logger="kafka")
    try:
        started = KafkaBroker(3, heap="256m")
    except BrokerMissing as missing:
        pytest.skip(str(missing))
    with started:
        yield started
    # The connections that failed while a broker was away; the collector needs several passes for all of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):
            gc.collect()


def opened(url: str) -> Database:
    """Open the database with the campaigns of the traffic."""
    migrate(url)
    database = Database(url)
    for number in range(3):
        offered = campaign(number, creatives=(creative(f"A{number}"),), bid_micros=1, starts_at=NOW)
        CampaignStore(database).create(offered, NOW)
    return database


def totals(database: Database) -> tuple[int, int, int]:
    lines = report(database, Query())
    return sum(x.impressions for x in lines), sum(x.clicks for x in lines), sum(x.revenue_micros for x in lines)


@pytest.mark.slow
def test_a_lost_broker_loses_and_doubles_nothing(brokers: KafkaBroker, tmp_path: Path) -> None:
    log = KafkaLog(brokers.settings(delivery_s=10))
    database = opened(f"sqlite:///{tmp_path / 'store.sqlite3'}")
    shown = [interaction(number) for number in range(COUNT)]
    clicked = [click for number, event in enumerate(shown) for click in clicks(event, number)]
    events: list[AnyEvent] = [*shown, *clicked]
    producer = EventProducer(tmp_path / "spool", log, topics=all_topics())
    producer.put(events[0])
    wait_for(lambda: producer.waiting + producer.buffered == 0)
    check_copies(brokers)
    stop = threading.Event()
    tasks = [LedgerTask(log, database, LedgerSettings(gathered_s=0.1)) for _ in range(2)]
    workers = [Worker(task, log, Member(i, 2), pauses_s=(0.2,)) for i, task in enumerate(tasks)]
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        for number, event in enumerate(events[1:]):
            producer.put(event)
            if number == len(events) // 3:
                wait_for(lambda: totals(database)[0] > 0)
                brokers.kill(0)
            if number % 20 == 0:
                time.sleep(0.02)  # so that events flow before, during and after the loss
        wait_for(lambda: producer.waiting + producer.buffered == 0)
        wait_for(lambda: set(behind(log, database).values()) == {0})
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    producer.close()
    assert totals(database) == (2 * COUNT, len(clicked), 200_000 * len(clicked))
    database.close()


def check_copies(brokers: KafkaBroker) -> None:
    """New topics have three copies, and an append is acknowledged by two brokers at least."""
    with KafkaAdminClient(**brokers.settings().options()) as admin:
        (topic,) = admin.describe_topics([INTERACTIONS])
        assert {len(partition["replica_nodes"]) for partition in topic["partitions"]} == {3}
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, INTERACTIONS)])
    assert found["topic"][INTERACTIONS]["min.insync.replicas"]["value"] == "2"


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
