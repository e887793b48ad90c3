"""The streaming drill's comparison of lake and ledger: it finds missing, duplicate and wrong entries.

The full drill, on a Kafka that is killed, is `make drill-streaming`.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine, text

from benchmarks.streaming.check import Comparison, compare
from benchmarks.streaming.drill import WORKERS, KillPlan, prepare
from benchmarks.streaming.traffic import produce
from judge.rules import RuleJudge
from serving.database.engine import Database
from serving.ledger.worker import LedgerSettings, LedgerTask
from streaming.embedded import EmbeddedLog
from streaming.topics import all_topics
from streaming.workers.judge import JudgeTask
from streaming.workers.lake import LakeTask
from streaming.workers.loop import Worker
from streaming.workers.task import Task

COUNT = 60


class Done(NamedTuple):
    folder: Path
    log: EmbeddedLog
    database: str

    def compared(self) -> Comparison:
        return compare(self.folder / "reference", self.log, str(self.folder / "lake"), self.database)

    def tamper(self, statement: str) -> None:
        engine = create_engine(self.database)
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traffic that went through all workers, on an embedded log and SQLite."""
    folder = tmp_path_factory.mktemp("drill")
    log = EmbeddedLog(folder / "log", durable=False)
    log.create(all_topics())
    produce(str(folder / "log"), folder / "spool", folder / "reference", COUNT, 0.0, 1)
    url = f"sqlite:///{folder / 'ledger.sqlite3'}"
    prepare(url)
    database = Database(url)
    run(log, JudgeTask(log, RuleJudge()))
    run(log, LakeTask(log, str(folder / "lake")))
    run(log, LedgerTask(log, database, LedgerSettings(gathered_s=0.0)))
    database.close()
    log.close()
    return folder


def run(log: EmbeddedLog, task: Task) -> None:
    Worker(task, log, poll_s=0.05).run(threading.Event(), until_idle=True)


@pytest.fixture
def done(source: Path, tmp_path: Path) -> Iterator[Done]:
    folder = tmp_path / "copy"
    shutil.copytree(source, folder)
    log = EmbeddedLog(folder / "log", durable=False)
    yield Done(folder, log, f"sqlite:///{folder / 'ledger.sqlite3'}")
    log.close()


def test_a_run_without_faults_is_exact(done: Done) -> None:
    found = done.compared()
    assert (found.exact, found.produced, found.judged, found.stored, found.counted) == (True, *[COUNT] * 4)
    assert 0 < found.clicks == found.charged == found.stored_clicks
    assert found.charged_micros == found.expected_micros


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        ("DELETE FROM charges WHERE id = (SELECT min(id) FROM charges WHERE invalid = '')", "lost"),
        ("DELETE FROM auctions WHERE id = (SELECT min(id) FROM auctions)", "lost"),
        ("UPDATE charges SET id = 'another' WHERE id = (SELECT min(id) FROM charges WHERE invalid = '')", "doubled"),
        ("UPDATE auctions SET id = 'another' WHERE id = (SELECT min(id) FROM auctions)", "doubled"),
        ("UPDATE campaign_spend SET total_micros = total_micros + 1 WHERE campaign_id = 'c0'", "wrong"),
        ("UPDATE campaign_days SET micros = micros - 1 WHERE campaign_id = 'c0'", "wrong"),
        ("UPDATE advertiser_totals SET charged_micros = charged_micros + 1", "wrong"),
        ("UPDATE report_counters SET impressions = impressions + 1 WHERE campaign_id = 'c1'", "wrong"),
        ("UPDATE report_counters SET clicks = clicks - 1 WHERE campaign_id = 'c0'", "wrong"),
        ("UPDATE hourly_answers SET answers = answers + 1", "wrong"),
    ],
)
def test_a_ledger_that_differs_is_found(done: Done, statement: str, field: str) -> None:
    done.tamper(statement)
    found = done.compared()
    assert not found.exact
    assert getattr(found, field) > 0


def test_missing_and_surplus_interactions_are_found(done: Done) -> None:
    lines = (done.folder / "reference").read_bytes().splitlines(keepends=True)
    more = lines[0].replace(b'"id":"01', b'"id":"02')
    (done.folder / "reference").write_bytes(b"".join([*lines, more]))
    assert done.compared().lost >= 3  # not judged, not in the lake and not counted
    (done.folder / "reference").write_bytes(b"".join(lines[1:]))
    assert done.compared().doubled >= 2


def test_every_process_is_killed_during_its_own_work() -> None:
    plan = KillPlan(5)
    shares = [step / 100 for step in range(101)]
    killed = [name for share in shares for name in plan.due(dict.fromkeys((*WORKERS, "broker"), share))]
    assert sorted(killed) == sorted([*WORKERS, *WORKERS, "broker"])


@pytest.mark.slow
def test_the_drill_is_exact_on_a_kafka_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.streaming.drill import main

    monkeypatch.setattr("sys.argv", ["drill", "--interactions", "2000", "--out", str(tmp_path / "drill.json")])
    assert main() == 0
    assert os.path.getsize(tmp_path / "drill.json") > 0
