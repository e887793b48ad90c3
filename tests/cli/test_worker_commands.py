"""`llm-auction worker`, `dlq` and `erase` on an embedded log: options and output."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from benchmarks.streaming.event_samples import click, interaction
from cli.main import app
from cli.worker import parse_money
from mechanism.errors import ConfigError, InputError
from serving.campaigns.storage import CampaignStore
from serving.database.engine import Database
from serving.database.migrations import migrate
from serving.reports.reports import Query, report
from serving.settings import PSEUDONYMS, derived, signing_secret
from streaming.codec import encode, topic_of
from streaming.dead_letters import dead_letter
from streaming.embedded import EmbeddedLog
from streaming.events import Judgement
from streaming.lake import TrainingSet
from streaming.lake.training_set import training_schema
from streaming.log import Partition, Record
from streaming.pseudonyms import pseudonym
from streaming.topics import CLICKS, INTERACTIONS, all_topics
from tests.serving.database.samples import campaign, creative
from tests.support.ports import free_ports

WAIT_S = 60.0


@pytest.fixture
def log(tmp_path: Path) -> EmbeddedLog:
    made = EmbeddedLog(tmp_path / "log", durable=False)
    made.create(all_topics())
    return made


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["--log-level", "error", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def put(log: EmbeddedLog, *records: tuple[str, bytes, bytes]) -> None:
    producer = log.producer()
    for topic, key, value in records:
        producer.append(topic, key, value)
    producer.flush(WAIT_S)
    producer.close()


def record(event: object) -> tuple[str, bytes, bytes]:
    return topic_of(event), event.key.encode(), encode(event)  # type: ignore[arg-type, attr-defined]


def judged(number: int, **options: object) -> list[tuple[str, bytes, bytes]]:
    event = interaction(number, datetime.now(UTC) - timedelta(minutes=1), **options)  # type: ignore[arg-type]
    judgement = Judgement(
        occurred_at=event.occurred_at,
        auction_id=event.auction_id,
        answered_at=event.occurred_at,
        judge="rules",
        judge_version="1",
    )
    return [record(event), record(judgement)]


def test_tables_are_written_until_the_end_of_the_log_and_a_user_is_erased(log: EmbeddedLog, tmp_path: Path) -> None:
    key = derived(signing_secret(tmp_path / "state", {}), PSEUDONYMS)
    put(log, *judged(1, user=pseudonym("alice", key)), *judged(2))
    lake, url = ["--lake", tmp_path / "lake"], str(tmp_path / "lake")
    assert call("worker", "lake", "--log", tmp_path / "log", *lake, "--until-idle") == (0, "")
    assert (TrainingSet(url).count(), TrainingSet(url).totals().answers) == (2, 2)
    options = ["--state-dir", tmp_path / "state", "--retention-days", 7, "--by", "carl"]
    code, output = call("erase", "alice", *lake, *options)
    assert code == 0
    assert "answers erased in the lake: 1\n" in output
    assert "hidden from every reader of the lake: now" in output
    assert f"removed from the log: by {(datetime.now(UTC) + timedelta(days=8)).date().isoformat()}" in output
    assert "alice" not in output
    assert (TrainingSet(url).count(), TrainingSet(url).totals().answers) == (1, 2)
    assert call("worker", "lake", "--log", tmp_path / "log", *lake, "--until-idle") == (0, "")
    assert TrainingSet(url).count() == 1
    assert "rows removed: 0" in call("lake", "maintain", *lake)[1]
    code, output = call("lake", "audit", *lake)
    assert (code, output.split()[1:]) == (0, ["user", "1", "carl"])


def test_an_erasure_without_matching_answers_is_reported(
    log: EmbeddedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = derived(signing_secret(tmp_path / "state", {}), PSEUDONYMS)
    put(log, *judged(1, user=pseudonym("alice", key)), *judged(2))
    lake = ["--lake", tmp_path / "lake"]
    state = ["--state-dir", tmp_path / "state"]
    code, output = call("erase", "alice", *lake, *state)
    assert (code, "no lake is there" in output) == (2, True)
    assert call("worker", "lake", "--log", tmp_path / "log", *lake, "--until-idle")[0] == 0
    with monkeypatch.context() as patch:
        patch.setenv("LLM_AUCTION_SECRET", "of other routers, long enough for one")
        for words in (("alice",), ("carl", *state)):
            code, output = call("erase", words[0], *lake, *words[1:])
            assert (code, "no such answer with a reader is in the lake" in output) == (0, True), words
    assert "answers erased in the lake: 1" in call("erase", "alice", *lake, *state)[1]
    assert "answers erased in the lake: 1" in call("erase", "--older-than-days", "0.0001", *lake)[1]
    assert call("erase", *lake)[0] == call("erase", "alice", "--auction", "x", *lake)[0] == 2


def test_a_member_that_cannot_be_is_refused(log: EmbeddedLog, tmp_path: Path) -> None:
    for member in ("3/3", "three"):
        code, output = call("worker", "judge", "--log", tmp_path / "log", "--member", member)
        assert (code, "member" in output, "0/3" in output) == (2, True, True)


def test_the_training_set_is_written_for_other_tools(log: EmbeddedLog, tmp_path: Path) -> None:
    lake, event = ["--lake", tmp_path / "lake"], interaction(3, datetime.now(UTC) - timedelta(minutes=1))
    put(log, *judged(1), *judged(2, reader=False), record(event), record(click(event, "A1", 2.5)))
    assert call("training-set", *lake, "--out", tmp_path / "x.parquet")[0] == 2
    assert call("worker", "judge", "--log", tmp_path / "log", "--until-idle") == (0, "")
    assert call("worker", "lake", "--log", tmp_path / "log", *lake, "--until-idle") == (0, "")
    code, output = call("training-set", *lake, "--out", tmp_path / "x.parquet")
    assert (code, "2 answers from interactions@" in output) == (0, True)
    table = pq.read_table(tmp_path / "x.parquet")
    assert set(training_schema().names) == set(table.schema.names)
    assert call("training-set", *lake, "--out", tmp_path / "x.jsonl", "--all")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_bytes().splitlines()]
    assert [line["usable"] for line in lines].count(True) == 2
    found = next(line for line in lines if line["auction_id"] == event.auction_id)
    assert found["clicks"] == [{"ad_id": "A1", "clicked_after_s": 2.5}]
    assert found["markers"][0]["probabilities"]["A0"] == pytest.approx(1 / 3)
    assert call("training-set", *lake, "--out", tmp_path / "x.csv")[0] == 2
    assert call("training-set", *lake, "--out", tmp_path / "x.jsonl", "--since", "noon")[0] == 2
    assert sorted(path.name for path in tmp_path.glob("*x.*")) == ["x.jsonl", "x.parquet"]


@pytest.mark.parametrize("command", [("worker", "judge"), ("worker", "lake", "--lake", "s"), ("dlq", "list")])
def test_an_address_that_is_no_log_is_refused(command: tuple[str, ...], log: EmbeddedLog, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for wrong, words in (
        ("Kafka", "write it kafka"),
        (tmp_path / "file", "that is a file"),
        (tmp_path, f"that is a router's state directory: give {tmp_path / 'log'}"),
    ):
        code, output = call(*command, "--log", wrong)
        assert (code, words in output) == (2, True), (wrong, output)
    if command[0] == "dlq":
        code, output = call(*command, "--log", tmp_path / "nowhere")
        assert (code, "no event log is there" in output, (tmp_path / "nowhere").exists()) == (2, True, False)
        code, output = call(*command, "--log", tmp_path / "log", "--topic", "interaction")
        assert (code, "topics are interactions, clicks, conversions, judgements" in output) == (2, True)


def test_a_metrics_port_in_use_is_refused(log: EmbeddedLog, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = call("worker", "judge", "--log", tmp_path / "log", "--metrics-port", port)
    assert (code, "--metrics-port" in output, "give a free port" in output) == (2, True, True)


def test_a_missing_secret_or_user_is_refused(tmp_path: Path) -> None:
    """A newly generated secret would match no user, and the erasure would still look successful."""
    lake, state = ["--lake", tmp_path / "lake"], tmp_path / "state"
    code, output = call("erase", "alice", *lake, "--state-dir", state)
    assert (code, "state directory" in output, state.exists()) == (2, True, False)
    signing_secret(state, {})
    assert call("erase", "", *lake, "--state-dir", state)[0] == 2


def test_the_ledger_worker_charges_what_the_log_holds(log: EmbeddedLog, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    event = interaction(1)
    put(log, record(event), record(click(event, "A0", 5)))
    ledger = ["worker", "ledger", "--log", tmp_path / "log", "--until-idle", "--database"]
    code, output = call(*ledger, url)
    assert (code, "the file does not exist" in output) == (2, True)
    migrate(url)
    assert call(*ledger, url)[0] == 0
    code, output = call("dlq", "list", "--log", tmp_path / "log")
    assert (code, "no campaign has this id" in output) == (0, True)
    database = Database(url)
    now = datetime.now(UTC)
    for number in range(3):
        CampaignStore(database).create(campaign(number, creatives=(creative(f"A{number}"),), bid_micros=1), now)
    for topic in (INTERACTIONS, CLICKS):
        assert call("dlq", "replay", topic, "--log", tmp_path / "log") == (0, f"1 replayed to {topic}, 0 kept\n")
    assert call(*ledger, url) == (0, "")
    (line,) = report(database, Query())
    assert (line.impressions, line.clicks, line.revenue_micros) == (2, 1, 200_000)
    database.close()
    assert call(*ledger, "mysql://x")[0] == 2


def test_dead_letters_are_listed_replayed_and_kept_while_they_cannot_be_decoded(
    log: EmbeddedLog, tmp_path: Path
) -> None:
    event = interaction(1)
    good = record(click(event, "A0", 5))
    put(log, (CLICKS, b"k", b"{"), (CLICKS, b"wrong key", good[2]))
    address = ["--log", tmp_path / "log"]
    assert call("dlq", "list", *address) == (0, "no dead letters\n")
    add_dead_letter(log, good)
    put(log, (INTERACTIONS, b"k", b"{"))
    assert call("worker", "judge", *address, "--until-idle")[0] == 0
    code, output = call("dlq", "list", *address)
    assert code == 0
    assert "1 of interactions, 1 of clicks" in output
    assert "not one JSON value" in output
    listed = [json.loads(line) for line in call("dlq", "list", "--json", "--topic", CLICKS, *address)[1].splitlines()]
    assert [(letter["topic"], letter["error"]) for letter in listed] == [(CLICKS, "InputError: ad: 'A0': not now")]
    before = log.end(Partition(CLICKS, 0)) + log.end(Partition(CLICKS, 1)) + log.end(Partition(CLICKS, 2))
    assert call("dlq", "replay", CLICKS, *address) == (0, "1 replayed to clicks, 0 kept\n")
    ends = [log.end(Partition(CLICKS, number)) for number in range(3)]
    assert sum(ends) == before + 1
    assert call("dlq", "replay", INTERACTIONS, *address) == (0, "0 replayed to interactions, 1 kept\n")
    assert "1 of interactions" in call("dlq", "list", *address)[1]
    assert call("dlq", "replay", CLICKS, *address) == (0, "0 replayed to clicks, 0 kept\n")
    assert call("dlq", "replay", "nothing", *address)[0] == 2


def test_dead_letters_are_shown_replayed_and_discarded_one_by_one(log: EmbeddedLog, tmp_path: Path) -> None:
    answer = interaction(1, user=f"{1:032x}")
    letters = [record(answer), record(interaction(2)), (INTERACTIONS, b"k", b'{"query": "my secret", "version": 9}')]
    for letter in letters:
        add_dead_letter(log, letter)
    address = ["--log", tmp_path / "log"]

    def waiting() -> list[int]:
        lines = call("dlq", "list", "--json", "--topic", INTERACTIONS, *address)[1].splitlines()
        return [json.loads(line)["letter"] for line in lines]

    assert waiting() == [0, 1, 2]
    code, output = call("dlq", "show", INTERACTIONS, 0, *address)
    shown = json.loads(output)
    assert (code, shown["event"]["auction_id"], shown["error"]) == (
        0,
        answer.auction_id,
        "InputError: ad: 'A0': not now",
    )
    assert shown["event"]["reader"] == "<dict, not shown>"
    assert answer.reader is not None
    assert answer.reader.query not in output
    assert answer.reader.text not in output
    assert "my secret" not in call("dlq", "show", INTERACTIONS, 2, *address)[1]
    assert call("dlq", "replay", INTERACTIONS, 1, *address) == (0, "1 replayed to interactions, 0 kept\n")
    assert waiting() == [0, 2]
    assert call("dlq", "discard", INTERACTIONS, 2, *address) == (0, "1 discarded\n")
    assert waiting() == [0]
    for command in ("show", "discard", "replay"):
        code, output = call("dlq", command, INTERACTIONS, 2, *address)
        assert (code, "no dead letter of interactions waits there" in output) == (2, True), command
    add_dead_letter(log, letters[1])
    assert call("dlq", "replay", INTERACTIONS, *address) == (0, "2 replayed to interactions, 0 kept\n")
    assert waiting() == []
    with log.consumer("", [INTERACTIONS]) as consumer:
        keys = [r.key.decode() for r in consumer.poll(1)]
    assert sorted(keys) == sorted([answer.auction_id, letters[1][1].decode(), letters[1][1].decode()])


def add_dead_letter(log: EmbeddedLog, good: tuple[str, bytes, bytes]) -> None:
    """Dead-letter a record for a reason that no longer applies."""
    producer = log.producer()
    refused = Record(good[0], 0, 9, datetime.now(UTC), good[1], good[2])
    dead_letter(producer, refused, InputError("ad", "A0", "not now")).result(WAIT_S)
    producer.close()


def test_a_judge_serves_metrics_and_ends_gracefully_at_sigterm(log: EmbeddedLog, tmp_path: Path) -> None:
    put(log, record(interaction(1, datetime.now(UTC) - timedelta(minutes=1))))
    [port] = free_ports(1)
    command = [sys.executable, "-m", "cli.main", "worker", "judge", "--log", str(tmp_path / "log")]
    process = subprocess.Popen([*command, "--metrics-port", str(port)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        end = time.monotonic() + WAIT_S
        metrics = ""
        while 'judgements_total{graded="yes"} 1.0' not in metrics:
            assert time.monotonic() < end, metrics
            assert process.poll() is None
            time.sleep(0.1)
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    metrics = answer.read().decode()
            except OSError:
                continue
        assert 'llm_auction_worker_lag_records{partition="0",topic="interactions",worker="judge"} 0.0' in metrics
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("money", "expected"), [("0", 0), ("12.50", 12_500_000), ("0.000001", 1)])
def test_money_is_parsed_exactly(money: str, expected: int) -> None:
    assert parse_money("--daily-budget", money) == expected


@pytest.mark.parametrize("money", ["", "-1", "1e-7", "much", "NaN", "Infinity", "-Infinity"])
def test_an_invalid_amount_is_refused(money: str) -> None:
    with pytest.raises(ConfigError, match="give an amount"):
        parse_money("--daily-budget", money)


def test_invalid_settings_end_with_one_line(tmp_path: Path) -> None:
    code, output = call("worker", "lake", "--log", tmp_path / "log", "--lake", tmp_path / "lake", "--commit", "-1")
    assert (code, "lake.commit_s" in output) == (2, True)
    code, output = call("worker", "judge", "--log", tmp_path / "log", "--endpoint", "ftp://x", "--model", "m")
    assert (code, "judge.base_url" in output) == (2, True)
