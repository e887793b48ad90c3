"""The judge and the feedback worker at work: on both logs, killed, moved from member to member, each auction once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.streaming.event_samples import click, clicks, interaction
from judge.grades import AnswerToGrade, Grades
from judge.rules import RuleJudge
from streaming.codec import encode, topic_of
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent, Interaction, Judgement
from streaming.kafka.log import KafkaLog
from streaming.log import EventLog, Partition
from streaming.pseudonyms import pseudonym
from streaming.shards import ShardReader
from streaming.shards.erasures import request, requests
from streaming.shards.store import ShardStore
from streaming.topics import INTERACTIONS, JUDGEMENTS, all_topics
from streaming.workers.feedback import FeedbackSettings, FeedbackTask
from streaming.workers.join import Attribution
from streaming.workers.judge import JudgeSettings, JudgeTask
from streaming.workers.loop import Worker
from streaming.workers.task import Task, WorkerStopped
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.java import BrokerMissing

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
WAIT_S = 80.0
QUICK = JudgeSettings(Attribution(window_s=600, settle_s=0, lateness_s=3_600), idle_s=0.5)
FLUSHED = FeedbackSettings(flush_s=0.05, quiet_s=0.2, tidy_s=0.1)


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    """A log that nobody used before."""
    if request.param == "embedded":
        yield embedded(tmp_path_factory.mktemp("log"))
        return
    try:
        broker = KafkaBroker()
    except BrokerMissing as missing:
        pytest.skip(str(missing))
    with broker:
        log = KafkaLog(broker.settings())
        log.create(all_topics())
        yield log


def embedded(folder: Path) -> EmbeddedLog:
    log = EmbeddedLog(folder, durable=False)
    log.create(all_topics())
    return log


def traffic(numbers: Iterable[int], began: datetime, **options: Any) -> list[AnyEvent]:
    """Answers a second apart, each followed by its clicks."""
    events: list[AnyEvent] = []
    for number in numbers:
        answer = interaction(number, began + timedelta(seconds=number), **options)
        events += [answer, *clicks(answer, number)]
    return events


def put(log: EventLog, events: Sequence[AnyEvent]) -> None:
    producer = log.producer()
    for event in events:
        producer.append(topic_of(event), event.key.encode(), encode(event))
    producer.flush(WAIT_S)
    producer.close()


@contextmanager
def running(log: EventLog, *tasks: Task) -> Iterator[list[BaseException]]:
    """Workers in threads, stopped at the end as SIGTERM stops them."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(task: Task) -> None:
        try:
            Worker(task, log, poll_s=0.05, pauses_s=(0.05,)).run(stop)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
        if failures:
            raise failures[0]


def until(holds: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def expected(events: Sequence[AnyEvent]) -> dict[str, set[str]]:
    """Clicked ads by auction."""
    found: dict[str, set[str]] = {e.auction_id: set() for e in events if isinstance(e, Interaction)}
    for event in events:
        if not isinstance(event, Interaction):
            found[event.auction_id].add(event.ad_id)  # type: ignore[union-attr]
    return found


def stored(url: str) -> dict[str, set[str]]:
    rows = ShardReader(url).rows(usable=False)
    return {row.auction_id: {ad for ad, judged in row.judged().items() if judged.clicked} for row in rows}


def written_twice(url: str) -> int:
    """Rows of one revision beyond the first, over all files."""
    store = ShardStore(url)
    keys = [
        (row["auction_id"], row["revision"])
        for manifest in ShardReader(url).manifests()
        for shard in manifest.shards
        for row in store.table(shard, ["auction_id", "revision"]).to_pylist()
    ]
    return len(keys) - len(set(keys))


def check(url: str, events: Sequence[AnyEvent]) -> None:
    """Files, totals and watermark say the same as what was put."""
    wanted = expected(events)
    assert stored(url) == wanted
    assert written_twice(url) == 0
    reader = ShardReader(url)
    totals = reader.totals()
    assert totals.auctions == len(wanted)
    assert totals.clicks == sum(len(ads) for ads in wanted.values())
    assert totals.orphans == 0
    assert totals.judgements == totals.rows + totals.repeated
    assert sum(s.rows for m in reader.manifests() for s in m.shards) == totals.rows - totals.superseded


def test_every_interaction_is_judged_with_its_clicks_whatever_the_order(fresh: EventLog, tmp_path: Path) -> None:
    judged_whatever_the_order(fresh, str(tmp_path / "shards"), FLUSHED)


def test_what_memory_has_no_room_for_is_found_in_the_shards(tmp_path: Path) -> None:
    small = replace(FLUSHED, remembered_mb=0.01)
    judged_whatever_the_order(embedded(tmp_path / "log"), str(tmp_path / "shards"), small)


def judged_whatever_the_order(fresh: EventLog, url: str, settings: FeedbackSettings) -> None:
    began = datetime.now(UTC) - timedelta(minutes=30)
    events = traffic(range(300), began)
    arrivals = events + random.Random(1).sample(events, 60)
    random.Random(2).shuffle(arrivals)
    half = len(arrivals) // 2
    put(fresh, arrivals[:half])
    tasks = [JudgeTask(fresh, RuleJudge(), QUICK), FeedbackTask(url, settings)]
    with running(fresh, *tasks):
        until(lambda: ShardReader(url).totals().auctions > 50)
        put(fresh, arrivals[half:])
        until(lambda: stored(url) == expected(events), lambda: ShardReader(url).totals())
        last = max(event.occurred_at for event in events if isinstance(event, Interaction))
        until(lambda: (mark := ShardReader(url).watermark()) is not None and mark >= last)
    check(url, events)
    (row,) = [row for row in ShardReader(url).rows() if row.auction_id == events[0].key]
    assert row.interaction == events[0]
    assert row.judgement.answer_quality is not None


def test_members_come_and_go_without_a_loss_or_a_double(fresh: EventLog, tmp_path: Path) -> None:
    # On a log that the test before has filled: everything is read from its beginning, as new groups do.
    url, began = str(tmp_path / "shards"), datetime.now(UTC) - timedelta(minutes=20)
    events = traffic(range(1_000, 1_200), began)
    known = {event.key for event in events}

    def mine() -> dict[str, set[str]]:
        return {auction: ads for auction, ads in stored(url).items() if auction in known}

    put(fresh, events[:150])
    with running(fresh, JudgeTask(fresh, RuleJudge(), QUICK), FeedbackTask(url, FLUSHED)):
        until(lambda: len(mine()) > 20)
        with running(fresh, JudgeTask(fresh, RuleJudge(), QUICK), FeedbackTask(url, FLUSHED)):
            put(fresh, events[150:])
            until(lambda: len(mine()) > 100)
        until(lambda: mine() == expected(events), lambda: ShardReader(url).totals())
    assert written_twice(url) == 0
    totals = ShardReader(url).totals()
    assert totals.judgements == totals.rows + totals.repeated + totals.orphans


class Counting(RuleJudge):
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        self.asked += [answer.auction_id for answer in answers]
        return super().grade(answers)


def test_a_judge_that_starts_again_neither_asks_nor_says_anything_twice(tmp_path: Path) -> None:
    log = embedded(tmp_path / "log")
    events = traffic(range(60), datetime.now(UTC) - timedelta(minutes=2))
    put(log, events)
    reader = log.consumer("", [JUDGEMENTS])
    said: list[Judgement] = []

    def listen() -> int:
        for record in reader.poll(0.05):
            said.append(decoded(record.value))
        return len({judgement.auction_id for judgement in said})

    first = Counting()
    with running(log, JudgeTask(log, first, QUICK)):
        until(lambda: listen() == 60)
    before_that = expected(events)
    chosen = next(e for e in events if isinstance(e, Interaction) and before_that[e.auction_id] == set())
    again = Counting()
    put(log, [click(chosen, "A0", 61)])
    before = len(said)
    with running(log, JudgeTask(log, again, QUICK)):
        until(lambda: listen() == 60 and len(said) > before)
    listen()
    assert again.asked == []
    ids = [judgement.event_id for judgement in said]
    assert len(ids) == len(set(ids))
    assert [(j.auction_id, j.revision) for j in said[before:]] == [(chosen.auction_id, 1)]
    reader.close()


def decoded(value: bytes | None) -> Judgement:
    from streaming.codec import decode

    assert value is not None
    event = decode(JUDGEMENTS, value)
    assert isinstance(event, Judgement)
    return event


def worker(kind: str, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli.main", "--log-level", "error", "worker", kind, "--log", str(folder / "log")]
    return subprocess.Popen([*command, *options], env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_workers_killed_at_any_moment_neither_lose_nor_double(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "shards")
    began = datetime.now(UTC) - timedelta(minutes=40)
    events = traffic(range(1_500), began)
    judge = ["--settle", "0", "--window", "600", "--lateness", "7200", "--idle", "0.5"]
    feedback = ["--shards", url, "--flush", "0.02"]
    chance = random.Random(4)
    rounds = 4
    share = len(events) // rounds + 1
    with ExitStack() as stack:
        for i in range(rounds):
            put(log, events[i * share : (i + 1) * share])
            started = [worker("judge", tmp_path, *judge), worker("feedback", tmp_path, *feedback)]
            for process in started:
                stack.callback(process.wait, 30)
                stack.callback(process.kill)
            reached = ShardReader(url).totals().rows
            if i < rounds - 1:
                until(lambda reached=reached: ShardReader(url).totals().rows > reached)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.2))
                for process in chance.sample(started, 2):
                    process.send_signal(signal.SIGKILL)
                    process.wait(30)
        until(lambda: stored(url) == expected(events), lambda: ShardReader(url).totals())
        for process in started:
            process.terminate()
        assert [process.wait(30) for process in started] == [0, 0]
    check(url, events)


def test_erased_data_does_not_come_back_from_the_log(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "shards")
    alice = pseudonym("alice", bytes(32))
    began = datetime.now(UTC) - timedelta(minutes=10)
    events = traffic(range(20), began, user=alice)
    put(log, events)
    with running(log, JudgeTask(log, RuleJudge(), QUICK), FeedbackTask(url, FLUSHED)):
        until(lambda: stored(url) == expected(events))
        assert ShardReader(url).count() == 20
        erasure = request(ShardStore(url), alice, timedelta(days=30))
        assert ShardReader(url).count() == 0
        until(lambda: all(m.erased == (erasure.mark,) for m in ShardReader(url).manifests()))
        # A click from before the request that came late: its row is written anew, from the log.
        answer = next(event for event in events if isinstance(event, Interaction) and not expected(events)[event.key])
        put(log, [click(answer, "A1", 100)])
        until(lambda: stored(url)[answer.key] == {"A1"})
    store = ShardStore(url)
    for manifest in ShardReader(url).manifests():
        for shard in manifest.shards:
            assert alice not in store.table(shard, ["reader"]).column("reader").to_string()
    assert list(requests(store)) == [alice]
    late = FeedbackTask(url, FLUSHED, clock=lambda: erasure.log_until + timedelta(days=1))
    with running(log, late):
        until(lambda: requests(store) == {})


def test_a_partition_without_traffic_holds_nothing_up(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "shards")
    answer = interaction(1, datetime.now(UTC) - timedelta(seconds=30))
    put(log, [answer])
    with running(log, JudgeTask(log, RuleJudge(), QUICK), FeedbackTask(url, FLUSHED)):
        until(lambda: stored(url) == {answer.key: set()})
        until(lambda: (mark := ShardReader(url).watermark()) is not None and mark >= answer.occurred_at)
    assert len(ShardReader(url).manifests()) == 3


def test_feedback_waits_for_the_judge_without_reading_all_interactions(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "shards")
    events = traffic(range(1_200), datetime.now(UTC) - timedelta(minutes=30))
    put(log, events)
    narrow = FeedbackSettings(flush_s=0.05, quiet_s=0.1, waiting=100)
    registry = CollectorRegistry()
    task = FeedbackTask(url, narrow, registry=registry)
    with running(log, task):
        until(lambda: len(task.paused()) == 3)
        assert 100 < (registry.get_sample_value("llm_auction_feedback_waiting") or 0) < 1_000
        with running(log, JudgeTask(log, RuleJudge(), QUICK)):
            until(lambda: stored(url) == expected(events), lambda: ShardReader(url).totals())
    check(url, events)


def test_an_interaction_that_the_log_no_longer_has_is_counted_as_an_orphan(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "shards")
    events = traffic(range(3), datetime.now(UTC) - timedelta(minutes=1))
    put(log, events)
    lost = interaction(77, datetime.now(UTC) - timedelta(minutes=1))
    judgement = Judgement(
        occurred_at=datetime.now(UTC),
        auction_id=lost.auction_id,
        answered_at=lost.occurred_at,
        window_s=60,
        judge="rules",
        judge_version="1",
    )
    put(log, [judgement])
    with running(log, JudgeTask(log, RuleJudge(), QUICK), FeedbackTask(url, FLUSHED)):
        until(lambda: ShardReader(url).totals().orphans == 1)
        until(lambda: stored(url) == expected(events))
    totals = ShardReader(url).totals()
    assert totals.judgements == totals.rows + totals.repeated + 1
    assert INTERACTIONS in FeedbackTask.topics


def test_a_damaged_shard_stops_the_worker_and_blames_no_record(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "shards")
    events = traffic(range(5), datetime.now(UTC) - timedelta(minutes=1))
    put(log, events)
    with running(log, JudgeTask(log, RuleJudge(), QUICK), FeedbackTask(url, FLUSHED)):
        until(lambda: stored(url) == expected(events))
    for path in (tmp_path / "shards/shards").rglob("*.parquet"):
        path.unlink()
    put(log, events)  # repetitions are looked up in the shards
    with pytest.raises(WorkerStopped, match="bring it back"), running(log, FeedbackTask(url, FLUSHED)) as failures:
        until(lambda: bool(failures))
    assert all(log.end(Partition(f"{topic}.dlq", 0)) == 0 for topic in (INTERACTIONS, JUDGEMENTS))
