"""The router's producer: it never waits, loses nothing to an outage or a kill, and keeps the order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from mechanism.errors import InputError
from streaming.codec import decode
from streaming.embedded import EmbeddedLog
from streaming.events import Click
from streaming.kafka.log import KafkaLog
from streaming.log import LogUnavailable, Record
from streaming.producer import EventProducer
from streaming.topics import CLICKS, Topic
from tests.support.disk import full_disk
from tests.support.kafka.broker import KafkaBroker

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see conftest.swept
HERE = Path(__file__).parent


@pytest.fixture
def target(tmp_path: Path) -> EmbeddedLog:
    log = EmbeddedLog(tmp_path / "log", durable=False)
    log.create([Topic(CLICKS)])
    return log


def auction(number: int) -> str:
    return f"019ab3c4-5d6e-7f80-9123-{number:012x}"


def ids(records: Iterable[Record]) -> list[str]:
    """Event ids, repetitions left out as every consumer does."""
    return list(dict.fromkeys(decode(CLICKS, r.value or b"").event_id for r in records))


def everything(log: EmbeddedLog) -> list[Record]:
    found: list[Record] = []
    with log.consumer("", [CLICKS]) as consumer:
        while records := consumer.poll(0):
            found += records
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def count(producer: EventProducer, name: str) -> float:
    return float(getattr(producer.metrics, name)._value.get())


def test_events_arrive_in_the_order_of_their_auction(click: Any, tmp_path: Path, target: EmbeddedLog) -> None:
    registry = CollectorRegistry()
    producer = EventProducer(tmp_path / "spool", target, registry=registry)
    events = [click(n, auction(n % 7)) for n in range(500)]
    for event in events:
        producer.put(event)
    producer.put_durably(click(500, auction(0))).result(30)
    producer.close()
    found = everything(target)
    assert len(found) == 501
    for n in range(7):
        own = [decode(CLICKS, r.value or b"") for r in found if r.key == auction(n).encode()]
        prices = [event.price_micros for event in own if isinstance(event, Click)]
        assert prices == sorted(prices)
    assert registry.get_sample_value("llm_auction_events_spooled_total") == 501
    assert registry.get_sample_value("llm_auction_events_sent_total") == 501
    assert registry.get_sample_value("llm_auction_events_dropped_total") == 0
    assert producer.waiting == 0


def test_nothing_is_lost_when_the_broker_is_killed_and_comes_back(
    click: Any, broker: KafkaBroker, side_of: Any, tmp_path: Path, read: Callable[..., list[Record]]
) -> None:
    log = KafkaLog(broker.settings(delivery_s=3))
    log.create([Topic(CLICKS)])
    with side_of(log).log.consumer("", [CLICKS]) as consumer:
        before = consumer.ends()  # other tests write to this broker, too
    producer = EventProducer(tmp_path / "spool", log)
    events = [click(n, auction(n % 11)) for n in range(900)]
    for event in events[:300]:
        producer.put(event)
    until(lambda: count(producer, "sent") > 0)
    broker.kill()
    try:
        for event in events[300:600]:
            producer.put(event)
        producer.put_durably(events[600]).result(30)  # the disk has it, whatever the broker does
        until(lambda: count(producer, "failures") > 0)
        assert producer.waiting >= 300
    finally:
        broker.start()
    for event in events[601:]:
        producer.put(event)
    until(lambda: producer.waiting == 0 and count(producer, "spooled") == 900)
    producer.close()
    assert count(producer, "dropped") == 0
    with side_of(log).log.consumer("", [CLICKS]) as consumer:
        for partition, end in before.items():
            consumer.seek(partition, end)
        records = read(consumer, sum(consumer.ends().values()) - sum(before.values()))
    found = ids(records)
    assert sorted(found) == sorted(event.event_id for event in events)
    for n in range(11):
        own = [event_id for event_id in found if event_id.startswith(auction(n))]
        assert own == [event.event_id for event in events if event.auction_id == auction(n)]


def test_a_killed_router_loses_no_event_that_was_on_disk(tmp_path: Path, target: EmbeddedLog) -> None:
    spool = tmp_path / "spool"
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "producing_process.py"), str(spool)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        while lines[-1].strip() != "30":
            lines.append(process.stdout.readline())
        process.kill()
        lines += process.stdout.read().splitlines()
    last = max(int(line) for line in lines if line.strip().isdigit())
    producer = EventProducer(spool, target)
    until(lambda: producer.waiting == 0)
    producer.close()
    events = [decode(CLICKS, r.value or b"") for r in everything(target)]
    prices = [event.price_micros for event in events if isinstance(event, Click)]
    assert prices == list(range(len(prices)))
    assert len(prices) >= last + 1


def test_what_is_sent_leaves_the_disk(click: Any, tmp_path: Path, target: EmbeddedLog) -> None:
    producer = EventProducer(tmp_path / "spool", target)
    events = [click(n) for n in range(300)]
    for event in events:
        producer.put(event)
    producer.put_durably(click(300)).result(30)
    until(lambda: producer.waiting == 0)
    producer.maintain()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "spool").iterdir())
    assert not any(event.event_id.encode() in kept for event in events)
    producer.close()


def test_two_producers_share_a_spool(click: Any, tmp_path: Path, target: EmbeddedLog) -> None:
    """As two processes of a router do: one sends for both, and the other one once the first has ended."""
    first, second = (EventProducer(tmp_path / "spool", target) for _ in range(2))
    for n in range(100):
        (first if n % 2 else second).put_durably(click(n, auction(n))).result(30)
    first.close()
    second.put(click(100, auction(100)))
    second.close()
    assert len(everything(target)) == len(ids(everything(target))) == 101


def test_events_wait_in_memory_for_a_full_disk(click: Any, tmp_path: Path, target: EmbeddedLog) -> None:
    producer = EventProducer(tmp_path / "spool", target, buffered=50)
    producer.put_durably(click(0)).result(30)
    with full_disk(tmp_path / "spool" / "log.db-wal"):
        with pytest.raises(LogUnavailable, match="see to its disk"):
            producer.put_durably(click(0)).result(30)
        for n in range(1, 60):
            producer.put(click(n))
        assert count(producer, "dropped") == 10  # only past the bound, and counted
        with pytest.raises(LogUnavailable, match="buffer of events is full"):
            producer.put_durably(click(60)).result(30)
    producer.close()
    assert ids(everything(target)) == [click(n).event_id for n in range(50)]


def test_what_is_no_event_is_refused_and_the_others_pass(click: Any, tmp_path: Path, target: EmbeddedLog) -> None:
    producer = EventProducer(tmp_path / "spool", target)
    bad = msgspec.structs.replace(click(1), currency="Euro")
    producer.put(click(0))
    with pytest.raises(InputError, match="currency"):
        producer.put_durably(bad).result(30)
    producer.put(click(2))
    producer.close()
    assert count(producer, "refused") == 1
    assert sorted(ids(everything(target))) == sorted([click(0).event_id, click(2).event_id])
