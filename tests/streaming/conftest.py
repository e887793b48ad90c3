"""Every contract of the event log is tested on both logs: an SQLite file, and a real Kafka broker."""

from __future__ import annotations

import gc
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from streaming.embedded import EmbeddedLog
from streaming.events import Click, click_id_of
from streaming.kafka.log import KafkaLog
from streaming.log import ALONE, Consumer, EventLog, Member, Record
from streaming.topics import Topic
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.java import BrokerMissing

AUCTION = "019ab3c4-5d6e-7f80-9123-456789abcdef"
WAIT_S = 40.0
"""How long something may take that takes milliseconds on a quiet machine."""


@dataclass
class Side:
    """One log, with names that no other test uses."""

    log: EventLog
    own: str = field(default_factory=lambda: "t" + uuid.uuid4().hex[:8])
    stack: ExitStack = field(default_factory=ExitStack)

    def topic(self, name: str = "things", partitions: int = 3, **options: Any) -> str:
        """A new topic."""
        topic = Topic(f"{self.own}-{name}", partitions, **options)
        self.log.create([topic])
        return topic.name

    def consumer(self, topics: str | Sequence[str], group: str = "readers", member: Member = ALONE) -> Consumer:
        """A consumer, closed at the end of the test."""
        names = [topics] if isinstance(topics, str) else topics
        return self.stack.enter_context(self.log.consumer(f"{self.own}-{group}" if group else "", names, member))

    def write(self, topic: str, values: Sequence[str], key: Callable[[str], str] = str) -> None:
        """Appends values durably."""
        producer = self.log.producer()
        for value in values:
            producer.append(topic, key(value).encode(), value.encode())
        producer.flush(WAIT_S)
        producer.close()


@pytest.fixture(scope="session")
def broker() -> Iterator[KafkaBroker]:
    """One broker for the session, started by the first test that needs it."""
    try:
        started = KafkaBroker()
    except BrokerMissing as missing:
        pytest.skip(str(missing))
    with started:
        yield started


@pytest.fixture(autouse=True)
def swept(request: pytest.FixtureRequest) -> Iterator[None]:
    """kafka-python leaves a socket open whenever it fails to connect, and the garbage collector would say so in the
    middle of another test. Tests that use it leave such warnings out themselves, by a mark on their module."""
    yield
    if request.node.get_closest_marker("filterwarnings") and "embedded" not in request.node.name:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(params=["embedded", "kafka"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Side]:
    """A log of each kind."""
    if request.param == "embedded":
        log: EventLog = EmbeddedLog(tmp_path / "log")
    else:
        log = KafkaLog(request.getfixturevalue("broker").settings())
    made = Side(log)
    with made.stack:
        yield made


@pytest.fixture
def side_of() -> Iterator[Callable[[EventLog], Side]]:
    """`side_of(log)`: the same for one log."""
    with ExitStack() as stack:
        yield lambda log: Side(log, stack=stack)


@pytest.fixture
def click() -> Callable[..., Click]:
    """`click(number, auction_id)`: a click on ad `number`, for `number` micros."""

    def make(number: int, auction_id: str = AUCTION) -> Click:
        return Click(
            occurred_at=datetime(2026, 11, 24, tzinfo=UTC),
            click_id=click_id_of(auction_id, f"A{number}"),
            auction_id=auction_id,
            ad_id=f"A{number}",
            campaign_id="c",
            verdict="valid",
            price_micros=number,
            currency="EUR",
        )

    return make


@pytest.fixture
def read() -> Callable[..., list[Record]]:
    """`read(consumer, count)`: polls until there are that many records, or fails."""
    return read_records


def read_records(consumer: Consumer, count: int) -> list[Record]:
    found: list[Record] = []
    end = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} records instead of {count}"
        found += consumer.poll(0.2)
    return found
