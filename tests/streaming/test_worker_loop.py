"""The run loop of the workers, on both logs: every record is taken, bad ones are set aside, failures are waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mechanism.errors import InputError
from streaming.codec import encode
from streaming.dead_letters import origin
from streaming.events import Click
from streaming.log import ALONE, Fenced, LogUnavailable, Member, Partition
from streaming.topics import CLICKS, all_topics
from streaming.workers.delivery import MOST_UNEXPECTED
from streaming.workers.loop import Worker
from streaming.workers.metrics import WorkerMetrics
from streaming.workers.task import Batch, WorkerStopped

# kafka-python leaves a socket behind for every connection that fails.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
WAIT_S = 60.0


class Collecting:
    """A task that remembers ads by offset; `fail` may raise for a batch."""

    topics: Sequence[str] = (CLICKS,)
    transient: tuple[type[Exception], ...] = ()

    def __init__(self, name: str, fail: Callable[[Batch], None] = lambda batch: None) -> None:
        self.name = name
        self._fail = fail
        self.got: dict[tuple[str, int, int], Any] = {}
        self.times_assigned = 0
        self.behind: list[frozenset[Partition]] = []

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int] | None:
        self.times_assigned += 1
        return None

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        self._fail(batch)
        for record, event in batch.arrivals:
            self.got[record.topic, record.partition, record.offset] = event
        self.behind.append(batch.behind)
        return batch.after

    def finish(self) -> Mapping[Partition, int]:
        return {}


@pytest.fixture
def topics(side: Any) -> Any:
    """The project's topics; on the broker they hold what other tests wrote."""
    side.log.create(all_topics())
    return side


def put(side: Any, events: Sequence[Any]) -> None:
    producer = side.log.producer()
    for event in events:
        producer.append(CLICKS, event.key.encode(), encode(event))
    producer.flush(WAIT_S)
    producer.close()


def run_until(worker: Worker, done: Callable[[], bool]) -> None:
    """Runs a worker until something holds, then stops it as SIGTERM does."""
    stop = threading.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            worker.run(stop)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    end = time.monotonic() + WAIT_S
    while not done() and thread.is_alive() and time.monotonic() < end:
        time.sleep(0.02)
    reached = done()
    stop.set()
    thread.join(WAIT_S)
    if failure:
        raise failure[0]
    assert reached


def worker_of(side: Any, task: Collecting, member: Member = ALONE, **options: Any) -> Worker:
    return Worker(task, side.log, member, poll_s=0.1, pauses_s=(0.01,), **options)


def own(task: Collecting, ids: set[str]) -> list[str]:
    """Click ids of this test in the order of their offsets: on the broker others' are there as well."""
    return [e.click_id for _, e in sorted(task.got.items()) if isinstance(e, Click) and e.click_id in ids]


def clicks_of(click: Callable[..., Click], count: int) -> list[Click]:
    stamp = time.time_ns() & 0xFFFFFFFF
    return [click(n, f"019ab3c4-5d6e-7f80-9123-{stamp:08x}{n:04x}") for n in range(count)]


def test_everything_is_processed_once_and_the_next_worker_continues(topics: Any, click: Callable[..., Click]) -> None:
    first, second = clicks_of(click, 40), clicks_of(click, 15)
    put(topics, first)
    task = Collecting(f"{topics.own}-a")
    ids = {c.click_id for c in first}
    run_until(worker_of(topics, task), lambda: len(own(task, ids)) == 40)
    put(topics, second)
    again = Collecting(f"{topics.own}-a")
    more = {c.click_id for c in second}
    run_until(worker_of(topics, again), lambda: len(own(again, more)) == 15)
    assert sorted(own(task, ids)) == sorted(ids)
    assert not own(again, ids), "what was committed came again"


def test_what_is_no_event_goes_to_the_dead_letters_with_its_headers(
    topics: Any, click: Callable[..., Click], read: Callable[..., Any]
) -> None:
    good = clicks_of(click, 6)
    put(topics, good[:3])
    producer = topics.log.producer()
    producer.append(CLICKS, topics.own.encode(), b"{no json", (("trace", b"7"),))
    producer.append(CLICKS, b"another key", encode(good[0]))
    producer.flush(WAIT_S)
    producer.close()
    put(topics, good[3:])
    registry = CollectorRegistry()
    task = Collecting(f"{topics.own}-b")
    ids = {c.click_id for c in good}
    worker = worker_of(topics, task, metrics=WorkerMetrics(registry))
    run_until(worker, lambda: len(own(task, ids)) == 6)
    keys = (topics.own.encode(), b"another key")
    letters = [record for record in read(topics.consumer(f"{CLICKS}.dlq", ""), 2) if record.key in keys]
    assert {letter.value for letter in letters} == {b"{no json", encode(good[0])}
    spoilt = next(letter for letter in letters if letter.value == b"{no json")
    assert spoilt.headers[0] == ("trace", b"7")
    assert origin(spoilt).topic == CLICKS
    assert "not one JSON value" in origin(spoilt).error
    assert (
        registry.get_sample_value("llm_auction_worker_dead_letters_total", {"worker": task.name, "topic": CLICKS}) >= 2
    )


@pytest.mark.parametrize("side", ["embedded"], indirect=True)
@pytest.mark.parametrize("error", [InputError("ad", "A3", "not this one"), ZeroDivisionError()])
def test_a_record_that_the_task_refuses_is_found_in_its_batch_and_set_aside(
    topics: Any, click: Callable[..., Click], read: Callable[..., Any], error: Exception
) -> None:
    events = clicks_of(click, 20)
    put(topics, events)

    def fail(batch: Batch) -> None:
        if any(isinstance(event, Click) and event.ad_id == "A3" for _, event in batch.arrivals):
            raise error

    task = Collecting("refusing", fail)
    run_until(worker_of(topics, task), lambda: len(task.got) == 19)
    (letter,) = read(topics.consumer(f"{CLICKS}.dlq", ""), 1)
    assert letter.value == encode(events[3])
    assert {event.ad_id for event in task.got.values()} == {f"A{n}" for n in range(20) if n != 3}
    again = Collecting("refusing", fail)
    put(topics, clicks_of(click, 1))
    run_until(worker_of(topics, again), lambda: len(again.got) == 1)


@pytest.mark.parametrize("side", ["embedded"], indirect=True)
def test_a_store_that_is_away_is_waited_for_and_nothing_is_lost(topics: Any, click: Callable[..., Click]) -> None:
    put(topics, clicks_of(click, 10))
    tries: list[int] = []

    def fail(batch: Batch) -> None:
        if batch.arrivals:
            tries.append(len(batch.arrivals))
            if len(tries) <= 3:
                raise LogUnavailable("away") if len(tries) % 2 else ConnectionError("away")

    registry = CollectorRegistry()
    task = Collecting("waiting", fail)
    run_until(worker_of(topics, task, metrics=WorkerMetrics(registry)), lambda: len(task.got) == 10)
    labels = {"worker": "waiting", "kind": "unavailable"}
    assert registry.get_sample_value("llm_auction_worker_errors_total", labels) == 3
    assert task.times_assigned >= 4


@pytest.mark.parametrize("side", ["embedded"], indirect=True)
def test_a_worker_that_fails_at_everything_stops_before_it_empties_the_topic(
    topics: Any, click: Callable[..., Click], read: Callable[..., Any]
) -> None:
    put(topics, clicks_of(click, 40))

    def fail(batch: Batch) -> None:
        if batch.arrivals:
            raise TypeError("a defect")

    with pytest.raises(WorkerStopped, match="nothing was lost"):
        run_until(worker_of(topics, Collecting("broken", fail)), lambda: False)
    assert len(read(topics.consumer(f"{CLICKS}.dlq", ""), MOST_UNEXPECTED)) == MOST_UNEXPECTED
    task = Collecting("broken")
    run_until(worker_of(topics, task), lambda: len(task.got) >= 40 - MOST_UNEXPECTED)


@pytest.mark.parametrize("side", ["embedded"], indirect=True)
def test_a_record_without_value_is_a_dead_letter_and_the_lag_is_reported(
    topics: Any, read: Callable[..., Any], click: Callable[..., Click]
) -> None:
    producer = topics.log.producer()
    producer.append(CLICKS, b"k", None)
    producer.flush(WAIT_S)
    put(topics, clicks_of(click, 1))
    task, registry = Collecting("valueless"), CollectorRegistry()
    worker = worker_of(topics, task, metrics=WorkerMetrics(registry))
    run_until(worker, lambda: len(task.got) == 1 and bool(task.behind) and not task.behind[-1])
    (letter,) = read(topics.consumer(f"{CLICKS}.dlq", ""), 1)
    assert (letter.key, letter.value) == (b"k", None)
    done = {"worker": "valueless", "topic": CLICKS}
    assert registry.get_sample_value("llm_auction_worker_records_total", done) == 2


@pytest.mark.parametrize("side", ["embedded"], indirect=True)
def test_members_share_the_partitions_and_those_that_are_added(topics: Any, click: Callable[..., Click]) -> None:
    first, second = (Collecting("sharing") for _ in range(2))
    before, after = clicks_of(click, 30), clicks_of(click, 30)
    put(topics, before)
    stop = threading.Event()
    workers = [worker_of(topics, task, Member(i, 2)) for i, task in enumerate((first, second))]
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(first.got) + len(second.got) == 30)
    topics.log.create(all_topics(partitions=6))
    put(topics, after)
    wait_for(lambda: len(first.got) + len(second.got) == 60)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert {number for _, number, _ in first.got} == {0, 2, 4}
    assert {number for _, number, _ in second.got} == {1, 3, 5}


@pytest.mark.parametrize("side", ["embedded"], indirect=True)
def test_a_fenced_worker_starts_again_where_its_task_says(topics: Any, click: Callable[..., Click]) -> None:
    """Two workers on the same partitions: whichever comes second is fenced, and nothing is stored twice."""
    events, store = clicks_of(click, 60), Store()
    tasks = [Storing(store) for _ in range(2)]
    stop = threading.Event()
    threads = [threading.Thread(target=worker_of(topics, task, most=3).run, args=(stop,)) for task in tasks]
    for thread in threads:
        thread.start()
    for event in events:
        put(topics, [event])
    wait_for(lambda: len(store.rows) >= 60)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(store.rows) == sorted(event.click_id for event in events)
    assert sum(task.times_fenced for task in tasks) > 0


class Store:
    """Rows and offsets that change together, as in a database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.rows: list[str] = []
        self.offsets: dict[Partition, int] = {}

    def write(self, rows: Sequence[str], expected: Mapping[Partition, int], after: Mapping[Partition, int]) -> None:
        with self._lock:
            if any(self.offsets.get(partition, 0) != expected[partition] for partition in after):
                raise Fenced("another worker was here")
            self.rows += rows
            self.offsets.update(after)


class Storing(Collecting):
    """A task that keeps its offsets with its results."""

    def __init__(self, store: Store) -> None:
        super().__init__("storing")
        self._store = store
        self._at: dict[Partition, int] = {}
        self.times_fenced = 0

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        self._at = {partition: self._store.offsets.get(partition, 0) for partition in partitions}
        return self._at

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        rows = [event.click_id for _, event in batch.arrivals if isinstance(event, Click)]
        try:
            self._store.write(rows, self._at, batch.after)
        except Fenced:
            self.times_fenced += 1
            raise
        self._at |= batch.after
        return batch.after


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
