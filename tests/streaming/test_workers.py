"""The judge and the lake worker at work: on both logs, killed, moved from member to member, each record in once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from benchmarks.streaming.event_samples import click, clicks, interaction
from judge.grades import UNGRADED, AnswerToGrade, Grades
from judge.rules import RuleJudge
from streaming.codec import decode, encode, topic_of
from streaming.embedded import EmbeddedLog
from streaming.events import AnyEvent, Interaction, Judgement
from streaming.kafka.log import KafkaLog
from streaming.lake import TrainingSet
from streaming.lake.erasures import erase, read_requests
from streaming.lake.store import Lake
from streaming.log import ALONE, EventLog, Member, Partition
from streaming.pseudonyms import pseudonym
from streaming.topics import CLICKS, INTERACTIONS, JUDGEMENTS, all_topics
from streaming.workers.judge import JudgeTask
from streaming.workers.lake import LakeSettings, LakeTask
from streaming.workers.loop import Worker
from streaming.workers.task import Task, WorkerStopped
from tests.support.kafka.broker import KafkaBroker
from tests.support.kafka.java import BrokerMissing

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
WAIT_S = 120.0
QUICK = LakeSettings(commit_s=0.05, quiet_s=0.3, requests_s=0.1)


@pytest.fixture(scope="module", params=["embedded", "kafka"])
def fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventLog]:
    """A log that no test used before."""
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
def running(log: EventLog, *tasks: Task, member: Member = ALONE) -> Iterator[list[BaseException]]:
    """Run workers in threads; stop them at the end as SIGTERM does."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(task: Task) -> None:
        try:
            Worker(task, log, member, poll_s=0.05, pauses_s=(0.05,)).run(stop)
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
        time.sleep(0.1)


def expected(events: Sequence[AnyEvent]) -> dict[str, set[str]]:
    """Clicked ads by auction."""
    found: dict[str, set[str]] = {e.auction_id: set() for e in events if isinstance(e, Interaction)}
    for event in events:
        if not isinstance(event, Interaction):
            found[event.auction_id].add(event.ad_id)  # type: ignore[union-attr]
    return found


def joined(url: str) -> dict[str, set[str]]:
    return {row.auction_id: set(row.clicked_after_s) for row in TrainingSet(url).rows(usable=False)}


def judged(url: str) -> dict[str, set[str]]:
    return {row.auction_id: set(row.clicked_after_s) for row in TrainingSet(url).rows(usable=False) if row.judgement}


def check_once(url: str, log: EventLog, *topics: str) -> None:
    """Every record of the log is in its table, once."""
    for topic in topics or (INTERACTIONS, CLICKS, JUDGEMENTS):
        with log.consumer("", [topic]) as consumer:
            wanted = {(p.number, n) for p, end in consumer.ends().items() for n in range(end)}
        table = Lake(url).open(topic).to_pyarrow_table(columns=["log_partition", "log_offset"])
        found = Counter(zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True))
        assert set(found) == wanted, topic
        assert set(found.values()) <= {1}, topic


def test_every_answer_is_judged_and_stored_with_its_clicks_whatever_the_order(fresh: EventLog, tmp_path: Path) -> None:
    began = datetime.now(UTC) - timedelta(minutes=30)
    events, url = traffic(range(300), began), str(tmp_path / "lake")
    arrivals = events + random.Random(1).sample(events, 60)
    random.Random(2).shuffle(arrivals)
    half = len(arrivals) // 2
    put(fresh, arrivals[:half])
    with running(fresh, JudgeTask(fresh, RuleJudge()), LakeTask(fresh, url, QUICK)):
        until(lambda: len(joined(url)) > 50)
        put(fresh, arrivals[half:])
        put_at = datetime.now(UTC)
        until(lambda: judged(url) == expected(events), lambda: TrainingSet(url).totals())
        slow = timedelta(seconds=QUICK.disorder_s)
        until(lambda: (mark := TrainingSet(url).watermark()) is not None and mark >= put_at - slow)
    check_once(url, fresh)
    (row,) = [row for row in TrainingSet(url).rows() if row.auction_id == events[0].key]
    assert row.interaction == events[0]
    assert row.judgement is not None
    assert row.judgement.answer_quality is not None


def test_a_new_lake_is_filled_from_the_beginning_whatever_the_group_committed(tmp_path: Path) -> None:
    log, events = embedded(tmp_path / "log"), traffic(range(20), datetime.now(UTC) - timedelta(minutes=5))
    put(log, events)
    for name in ("first", "second"):
        url = str(tmp_path / name)
        Worker(LakeTask(log, url, QUICK), log, poll_s=0.05).run(threading.Event(), until_idle=True)
        check_once(url, log, INTERACTIONS, CLICKS)


def test_members_come_and_go_without_a_loss_or_a_double(fresh: EventLog, tmp_path: Path) -> None:
    # on a log that the test before has filled: a new lake reads it from its beginning
    url, began = str(tmp_path / "lake"), datetime.now(UTC) - timedelta(minutes=20)
    events = traffic(range(1_000, 1_200), began)
    put(fresh, events[:150])
    with ExitStack() as pair:
        with running(fresh, LakeTask(fresh, url, QUICK)):
            until(lambda: len(joined(url)) > 20)
            for index in range(2):  # for a moment every partition has two owners
                pair.enter_context(running(fresh, LakeTask(fresh, url, QUICK), member=Member(index, 2)))
            put(fresh, events[150:])
            until(lambda: len(joined(url)) > 100)
        until(lambda: expected(events).items() <= joined(url).items(), lambda: TrainingSet(url).totals())
    check_once(url, fresh, INTERACTIONS, CLICKS)


def test_partitions_that_are_added_are_read_as_well_and_the_watermark_waits_for_them(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "lake")
    events = traffic(range(120), datetime.now(UTC) - timedelta(minutes=5))
    put(log, events[:60])
    with running(log, LakeTask(log, url, QUICK)):
        until(lambda: len(joined(url)) > 20)
        log.create(all_topics(partitions=5))
        put(log, events[60:])
        put_at = datetime.now(UTC)
        until(lambda: joined(url) == expected(events), lambda: TrainingSet(url).totals())
        slow = timedelta(seconds=QUICK.disorder_s)
        until(lambda: (mark := TrainingSet(url).watermark()) is not None and mark >= put_at - slow)
    check_once(url, log, INTERACTIONS, CLICKS)
    rows = Lake(url).open(INTERACTIONS).to_pyarrow_table(columns=["log_partition"])
    assert set(rows.column("log_partition").to_pylist()) == set(range(5))


def worker(kind: str, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli.main", "--log-level", "error", "worker", kind, "--log", str(folder / "log")]
    return subprocess.Popen([*command, *options], env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_workers_killed_at_any_moment_neither_lose_nor_double(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "lake")
    events = traffic(range(1_500), datetime.now(UTC) - timedelta(minutes=40))
    chance = random.Random(4)
    rounds = 4
    share = len(events) // rounds + 1
    with ExitStack() as stack:
        for i in range(rounds):
            put(log, events[i * share : (i + 1) * share])
            lake = ["--lake", url, "--commit", "0.02", "--commit-rows", "100"]
            started = [worker("judge", tmp_path), worker("lake", tmp_path, *lake)]
            for process in started:
                stack.callback(process.wait, 30)
                stack.callback(process.kill)
            reached = TrainingSet(url).totals().judged
            if i < rounds - 1:
                until(lambda reached=reached: TrainingSet(url).totals().judged > reached)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.2))
                for process in chance.sample(started, 2):
                    process.send_signal(signal.SIGKILL)
                    process.wait(30)
        until(lambda: judged(url) == expected(events), lambda: TrainingSet(url).totals())
        for process in started:
            process.terminate()
        assert [process.wait(60) for process in started] == [0, 0]
    check_once(url, log)


class Counting(RuleJudge):
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        self.asked += [answer.auction_id for answer in answers]
        return super().grade(answers)


def said(log: EventLog) -> list[Judgement]:
    found: list[Judgement] = []
    with log.consumer("", [JUDGEMENTS]) as consumer:
        ends = consumer.ends()
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            for record in consumer.poll(0.1):
                assert record.value is not None
                event = decode(JUDGEMENTS, record.value)
                assert isinstance(event, Judgement)
                found.append(event)
    return found


def test_a_judge_that_starts_again_goes_on_where_it_was(tmp_path: Path) -> None:
    log, first, again = embedded(tmp_path / "log"), Counting(), Counting()
    events = traffic(range(60), datetime.now(UTC) - timedelta(minutes=2))
    put(log, events)
    Worker(JudgeTask(log, first), log, poll_s=0.05).run(threading.Event(), until_idle=True)
    put(log, traffic(range(60, 65), datetime.now(UTC) - timedelta(minutes=1)))
    Worker(JudgeTask(log, again), log, poll_s=0.05).run(threading.Event(), until_idle=True)
    assert (len(first.asked), len(again.asked)) == (60, 5)
    assert len({judgement.auction_id for judgement in said(log)}) == len(said(log)) == 65


class Unable(RuleJudge):
    """Grades nothing, as where a budget is spent."""

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        return [UNGRADED for _ in answers]


def test_an_answer_that_gets_no_grades_is_judged_all_the_same(tmp_path: Path) -> None:
    log, registry = embedded(tmp_path / "log"), CollectorRegistry()
    answer = interaction(1)
    put(log, [answer, answer])
    Worker(JudgeTask(log, Unable(), registry=registry), log, poll_s=0.05).run(threading.Event(), until_idle=True)
    (judgement,) = said(log)
    assert [(ad.ad_id, ad.relevance) for ad in judgement.ads] == [("A0", None), ("A1", None)]
    assert registry.get_sample_value("llm_auction_judge_judgements_total", {"graded": "no"}) == 1


def test_erased_data_does_not_come_back_from_the_log(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "lake")
    alice = pseudonym("alice", bytes(32))
    events = traffic(range(20), datetime.now(UTC) - timedelta(minutes=10), user=alice)
    answers = [event for event in events if isinstance(event, Interaction)]
    put(log, [*events, *traffic(range(50, 53), datetime.now(UTC) - timedelta(minutes=10))])
    with running(log, JudgeTask(log, RuleJudge()), LakeTask(log, url, QUICK)):
        until(lambda: TrainingSet(url).count() == 23)
        request, erased = erase(Lake(url), "user", alice, "a test", timedelta(days=30))
        assert (erased, TrainingSet(url).count()) == (20, 3)
        time.sleep(0.3)  # the worker has read the request
        late = interaction(777, request.requested_at - timedelta(seconds=1), user=alice)
        later_consent = interaction(778, request.requested_at + timedelta(seconds=1), user=alice)
        put(log, [*answers[:5], late, later_consent])  # a replay, a router's spool, and new consent
        until(lambda: len(joined(url)) == 25)
        until(lambda: TrainingSet(url).count() == 4, lambda: TrainingSet(url).totals())
    kept = {row.auction_id for row in TrainingSet(url).rows()}
    assert later_consent.auction_id in kept
    assert late.auction_id not in kept
    assert {row.auction_id: set(row.clicked_after_s) for row in TrainingSet(url).rows(usable=False)}.items() >= (
        expected(events).items()
    ), "auctions and clicks remain"
    assert [r.subject for r in read_requests(Lake(url)).all] == [alice]


def test_a_partition_without_traffic_holds_nothing_up(tmp_path: Path) -> None:
    log, url = embedded(tmp_path / "log"), str(tmp_path / "lake")
    answer = interaction(1, datetime.now(UTC) - timedelta(seconds=30))
    put(log, [answer])
    with running(log, LakeTask(log, url, QUICK)):
        until(lambda: (mark := TrainingSet(url).watermark()) is not None and mark >= answer.occurred_at)


def test_a_worker_that_another_one_has_overtaken_changes_nothing(tmp_path: Path) -> None:
    """Two logs of one identity stand for two owners of one partition, as after a network that was cut."""
    log, url = embedded(tmp_path / "log"), str(tmp_path / "lake")
    events = traffic(range(40), datetime.now(UTC) - timedelta(minutes=10))
    put(log, events[:20])
    slow = LakeTask(log, url, LakeSettings(commit_s=3_600.0, quiet_s=3_600.0))
    stop = threading.Event()
    other = EmbeddedLog(tmp_path / "log")
    holding = threading.Thread(target=Worker(slow, log, poll_s=0.05).run, args=(stop,))
    holding.start()
    until(lambda: Lake(url).has(JUDGEMENTS))
    time.sleep(0.5)
    numbers = [Partition(topic, n) for topic in (INTERACTIONS, CLICKS, JUDGEMENTS) for n in range(3)]
    quick = LakeTask(other, url, QUICK)
    quick.assigned(numbers)
    from streaming.workers.task import Batch, arrival

    with other.consumer("", [INTERACTIONS, CLICKS]) as consumer:
        records = [record for _ in range(5) for record in consumer.poll(0.1)]
    after = {record.place: record.offset + 1 for record in records}
    quick.process(Batch([arrival(record) for record in records], after))
    quick.finish()
    stop.set()
    holding.join(WAIT_S)
    put(log, events[20:])
    Worker(LakeTask(log, url, QUICK), log, poll_s=0.05).run(threading.Event(), until_idle=True)
    check_once(url, log, INTERACTIONS, CLICKS)


def test_a_damaged_table_stops_the_worker_and_blames_no_record(tmp_path: Path) -> None:
    import pyarrow as pa

    log, url = embedded(tmp_path / "log"), str(tmp_path / "lake")
    put(log, [click(interaction(1), "A0", 1.0)])
    Lake(url).create(CLICKS, pa.schema([("auction_id", pa.int64()), ("day", pa.date32())]), ["day"])
    with pytest.raises(WorkerStopped, match="use another folder"), running(log, LakeTask(log, url, QUICK)) as failures:
        until(lambda: bool(failures))
    assert log.end(Partition(f"{CLICKS}.dlq", 0)) == 0
