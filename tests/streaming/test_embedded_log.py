"""The embedded log's file: kills while appending, several processes, a full disk, damage, retention."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import InputError
from streaming.embedded import EmbeddedLog
from streaming.file_lock import FileLock
from streaming.log import LogCorrupt, LogUnavailable, Partition, Record
from streaming.topics import Topic
from tests.support.disk import full_disk

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ONE = Partition("things", 0)
DAY_MS = 86_400_000


def log_at(folder: Path, *, partitions: int = 1, **options: Any) -> EmbeddedLog:
    clock = {"clock_ms": options.pop("clock_ms")} if "clock_ms" in options else {}
    log = EmbeddedLog(folder, durable=False, **clock)
    log.create([Topic("things", partitions, **options)])
    return log


def append(log: EmbeddedLog, *values: str | None, key: str = "k") -> None:
    producer = log.producer()
    for value in values:
        producer.append("things", key.encode(), None if value is None else value.encode())
    producer.flush(10)
    producer.close()


def everything(log: EmbeddedLog) -> list[Record]:
    """What a reader without a group finds."""
    found: list[Record] = []
    with log.consumer("", ["things"]) as consumer:
        while records := consumer.poll(0):
            found += records
    return found


def texts(records: list[Record]) -> list[str]:
    return [r.value.decode() for r in records if r.value is not None]


def spawn(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_killed_appenders_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Several processes append to one partition and are killed; a reader follows them all the while."""
    log = log_at(tmp_path)
    reader = log.consumer("", ["things"])
    acknowledged: dict[str, int] = {}
    found: list[Record] = []
    writers = {name: spawn("appending_process.py", str(tmp_path), "things", name) for name in ("a", "b", "c")}
    for name, process in writers.items():
        assert process.stdout is not None
        while acknowledged.get(name, 0) < 60:
            acknowledged[name] = int(process.stdout.readline())
            found += reader.poll(0)
        process.kill()
    for name, process in writers.items():
        rest, _ = process.communicate()
        acknowledged[name] = int((rest.rsplit("\n", 2)[:-1] or [str(acknowledged[name])])[-1])
    append(log, "end")
    while not found or found[-1].value != b"end":
        found += reader.poll(0)
    reader.close()
    assert [r.offset for r in found] == list(range(len(found)))
    for name, last in acknowledged.items():
        numbers = [int(text.rstrip(".").split("-")[1]) for text in texts(found) if text.startswith(f"{name}-")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > last
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_killed_process_leaves_all_or_nothing_of_a_transaction(tmp_path: Path) -> None:
    """The copy of the files at any moment is what a kill leaves: it opens, without a gap, and takes further records."""
    log = log_at(tmp_path / "log")
    appended = 0
    for round_ in range(12):
        append(log, *(str(n) for n in range(appended, appended + 5)))
        appended += 5
        copy = tmp_path / f"copy{round_}"
        copy.mkdir()
        (copy / "log.db").write_bytes((tmp_path / "log" / "log.db").read_bytes())
        wal = (tmp_path / "log" / "log.db-wal").read_bytes()
        (copy / "log.db-wal").write_bytes(wal[: len(wal) - round_ * 97])  # the end of the last write is missing
        torn = EmbeddedLog(copy)
        survived = texts(everything(torn))
        assert survived == [str(n) for n in range(len(survived))]
        assert len(survived) in (appended - 5, appended)
        append(torn, "after")
        assert [r.offset for r in everything(torn)] == list(range(len(survived) + 1))
        torn.close()


def test_threads_share_transactions_and_each_gets_its_own_place(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    log.create([Topic("things", 2)])
    producer, places = log.producer(), dict[str, tuple[str, int, int]]()

    def work(name: int) -> None:
        for number in range(25):
            value = f"{name}-{number}"
            places[value] = tuple(producer.append("things", str(name).encode(), value.encode()).result(30))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = everything(log)
    assert {r.value.decode(): (r.topic, r.partition, r.offset) for r in found if r.value} == places
    for name in range(8):
        assert [t for t in texts(found) if t.startswith(f"{name}-")] == [f"{name}-{number}" for number in range(25)]


def test_a_producer_that_is_never_flushed_does_not_keep_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.embedded.producer.MOST_WAITING_BYTES", 10_000)
    producer = log_at(tmp_path).producer()
    payload, held = bytes(900), sys.getrefcount
    before = held(payload)
    for _ in range(200):
        producer.append("things", b"k", payload)
    assert held(payload) - before < 20
    producer.close()


def test_a_reader_waits_for_nobody(tmp_path: Path) -> None:
    """Neither for a transaction of another process nor for its lock."""
    log = log_at(tmp_path)
    append(log, "a")
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    with log.consumer("", ["things"]) as consumer, FileLock(tmp_path / "log.lock").holding():
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO \"things/0\" VALUES (1, 0, x'00', x'00', NULL)")
        assert texts(consumer.poll(0)) == ["a"]
        assert consumer.poll(0.05) == [], "a record that may never be committed was read"
        other.execute("ROLLBACK")
    other.close()


def test_damage_is_found_and_nothing_is_changed(tmp_path: Path) -> None:
    log_at(tmp_path).close()
    path = tmp_path / "log.db"
    data = bytearray(path.read_bytes())
    data[100:4_000] = b"\xff" * 3_900
    path.write_bytes(data)
    with pytest.raises(LogCorrupt, match=r"log\.db: .*restore the file"):
        EmbeddedLog(tmp_path)
    assert path.read_bytes() == bytes(data)


def test_a_file_that_is_no_log_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"a note of mine, long enough to have a header" * 100)
    with pytest.raises(LogCorrupt, match="not a database"):
        EmbeddedLog(tmp_path)


def test_the_files_of_version_0_1_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks" / "topic.json").write_text("{}")
    with pytest.raises(InputError, match=r"version 0\.1 wrote it: send the spool and finish the workers"):
        EmbeddedLog(tmp_path)
    assert not (tmp_path / "log.db").exists()


def test_a_log_with_the_former_column_of_compacted_topics_takes_new_ones(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    append(log, "a")
    log.close()
    connection = sqlite3.connect(tmp_path / "log.db")
    connection.executescript(
        "CREATE TABLE former (name TEXT PRIMARY KEY, partitions INTEGER NOT NULL, retention_ms INTEGER,"
        " compacted INTEGER NOT NULL) WITHOUT ROWID;"
        "INSERT INTO former SELECT name, partitions, retention_ms, 0 FROM topics;"
        "DROP TABLE topics; ALTER TABLE former RENAME TO topics;"
    )
    connection.close()
    log = log_at(tmp_path)
    log.create([Topic("others", 2)])
    assert log.partitions("others") == 2
    append(log, "b")
    assert texts(everything(log)) == ["a", "b"]


def test_records_past_their_time_go_and_offsets_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.embedded.log.REMOVED_AT_ONCE", 7)
    now = [DAY_MS]
    log = log_at(tmp_path, retention=timedelta(days=3), clock_ms=lambda: now[0])
    append(log, *(f"old{i}" for i in range(40)))
    slow = log.consumer("", ["things"])
    assert texts(slow.poll(0, 5)) == [f"old{i}" for i in range(5)]
    now[0] += 4 * DAY_MS
    append(log, *(f"new{i}" for i in range(40)))
    log.maintain()
    assert texts(slow.poll(0)) == [f"new{i}" for i in range(40)], "a reader goes on at the oldest record"
    assert texts(everything(log)) == [f"new{i}" for i in range(40)]
    now[0] += 4 * DAY_MS
    log.maintain()
    assert everything(log) == []
    append(log, "last")
    assert [r.offset for r in everything(log)] == [80]
    slow.close()


def test_removed_records_leave_neither_bytes_nor_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.embedded.database.VACUUMED_PAGES", 50)
    log = log_at(tmp_path)
    append(log, *("secret" + "x" * 3_000 for _ in range(2_000)))
    size = (tmp_path / "log.db").stat().st_size
    for offset in range(0, 2_001, 100):
        log.trim(ONE, offset)
    assert log.start(ONE) == log.end(ONE) == 2_000
    log.close()
    assert (tmp_path / "log.db").stat().st_size < size / 4
    assert b"secret" not in (tmp_path / "log.db").read_bytes()


def test_a_group_whose_offset_is_gone_goes_on_at_the_oldest(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    append(log, *(f"v{i}" for i in range(60)))
    with log.consumer("g", ["things"]) as consumer:
        consumer.commit({ONE: 3})
    log.trim(ONE, 45)
    with log.consumer("g", ["things"]) as consumer:
        assert consumer.poll(5)[0].offset == 45


def test_a_full_disk_keeps_the_log_whole_and_is_reported(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    append(log, "before")
    producer = log.producer()
    with full_disk(tmp_path / "log.db-wal"):
        waiting = producer.append("things", b"k", b"lost?")
        with pytest.raises(LogUnavailable, match=r"log\.db: .*see to its disk"):
            producer.flush(1)
        with pytest.raises(LogUnavailable):
            waiting.result(1)
    append(log, "after")
    assert texts(everything(log)) == ["before", "after"]
    assert [r.offset for r in everything(log)] == [0, 1]
