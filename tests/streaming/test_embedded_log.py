"""The files of the embedded log: kills at any byte, several processes, damage, compaction and retention."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from streaming.embedded import EmbeddedLog
from streaming.embedded.frames import Frame, decode_frame, encode_frame, frame_end, whole_frames
from streaming.embedded.segments import bases, segment_path
from streaming.log import LogCorrupt, LogUnavailable, Partition, Record
from streaming.topics import Topic

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ONE = Partition("things", 0)
DAY_MS = 86_400_000


def log_at(folder: Path, *, segment_bytes: int = 512, partitions: int = 1, **options: Any) -> EmbeddedLog:
    clock = {"clock_ms": options.pop("clock_ms")} if "clock_ms" in options else {}
    log = EmbeddedLog(folder, durable=False, segment_bytes=segment_bytes, **clock)
    log.create([Topic("things", partitions, **options)])
    return log


def append(log: EmbeddedLog, *values: str | None, key: str = "k", flush_every: int = 1) -> None:
    producer = log.producer()
    for i, value in enumerate(values):
        producer.append("things", key.encode(), None if value is None else value.encode())
        if i % flush_every == 0:
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


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def spawn(script: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(HERE / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@given(
    st.integers(0, 2**60),
    st.integers(0, 2**45),
    st.binary(max_size=40),
    st.none() | st.binary(max_size=80),
    st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=5), st.binary(max_size=9)), max_size=3),
)
def test_a_frame_comes_back_and_no_part_of_it_passes(
    offset: int, moment: int, key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    frame = Frame(offset, moment, key, value, tuple(headers))
    data = encode_frame(frame)
    assert decode_frame(data, 0) == frame
    assert frame_end(data, 0) == len(data)
    for cut in {0, 3, 12, len(data) // 2, len(data) - 1}:
        assert frame_end(data[:cut], 0) is None


@given(st.data())
@settings(max_examples=60)
def test_a_kill_at_any_byte_loses_nothing_before_it_and_doubles_nothing(data: st.DataObject) -> None:
    """A killed appender leaves a beginning of its last write. Whatever that is, what stands before it stays, and the
    next records follow on without a gap or a repetition."""
    folder = Path("/tmp") / f"llm-auction-cut-{os.getpid()}-{random.getrandbits(48):x}"
    try:
        sizes = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=25))
        before = [f"{i}:" + "x" * size for i, size in enumerate(sizes)]
        log = log_at(folder)
        append(log, *before, flush_every=data.draw(st.integers(1, 4)))
        newest = segment_path(folder / "things" / "0", bases(folder / "things" / "0")[-1])
        whole = newest.stat().st_size
        cut = data.draw(st.integers(0, whole))
        os.truncate(newest, cut)
        knows_more = data.draw(st.booleans())
        if not knows_more and data.draw(st.booleans()):  # some systems leave zeros where bytes had not come yet
            os.truncate(newest, cut + data.draw(st.integers(1, 40)))
        reopened = log if knows_more else log_at(folder)
        reader_first = data.draw(st.booleans())
        kept = texts(everything(reopened)) if reader_first else []
        append(reopened, "after-1", "after-2")
        found = everything(reopened)
        survived = texts(found)[:-2]
        assert survived == before[: len(survived)]
        if reader_first:
            assert kept == survived
        if cut == whole:
            assert survived == before
        assert texts(found)[-2:] == ["after-1", "after-2"]
        assert [r.offset for r in found] == list(range(len(found)))
        for path in (folder / "things" / "0").glob("*.log"):
            assert max((end for _, end in whole_frames(path.read_bytes())), default=0) == path.stat().st_size
        reopened.close()
        log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_damage_before_sound_records_stops_the_log_and_loses_nothing(tmp_path: Path) -> None:
    log = log_at(tmp_path, segment_bytes=1 << 20)
    append(log, *"abcdefgh")
    log.close()
    path = segment_path(tmp_path / "things" / "0", 0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = log_at(tmp_path, segment_bytes=1 << 20)
    with pytest.raises(LogCorrupt, match=r"at byte \d+: damaged"):
        append(again, "i")
    with again.consumer("", ["things"]) as consumer:
        sound = texts(consumer.poll(5))
        assert sound == list("abcdefgh")[: len(sound)]
        with pytest.raises(LogCorrupt):
            consumer.poll(5)
    assert path.read_bytes() == bytes(data)


def test_damage_in_an_ended_segment_stops_a_reader(tmp_path: Path) -> None:
    log = log_at(tmp_path, segment_bytes=100)
    append(log, *("x" * 60 for _ in range(4)))
    folder = tmp_path / "things" / "0"
    assert len(bases(folder)) > 2
    first = segment_path(folder, bases(folder)[0])
    os.truncate(first, first.stat().st_size - 1)
    with pytest.raises(LogCorrupt):
        everything(log)


def test_killed_appenders_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Several processes append to one partition and are killed; a reader follows them all the while."""
    log = log_at(tmp_path, segment_bytes=2_048)
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


def test_members_in_several_processes_share_and_inherit_partitions(tmp_path: Path) -> None:
    """One member is killed: the others take over where it committed, at most a batch comes again, none is missed."""
    log = log_at(tmp_path, partitions=4, segment_bytes=4_096)
    values = [f"v{i}" for i in range(400)]
    members = [spawn("consuming_process.py", str(tmp_path), "things", "g")]
    producer = log.producer()
    lines: list[str] = []
    first = members[0].stdout
    assert first is not None
    for i, value in enumerate(values):
        producer.append("things", value.encode(), value.encode())
        if i % 20 == 0:
            producer.flush(10)
        if i == 0:  # alone it has every partition: a later member cannot read everything before this one prints
            lines.append(first.readline())
            members.append(spawn("consuming_process.py", str(tmp_path), "things", "g"))
            until(lambda: len(list((tmp_path / "groups" / "g" / "members").iterdir())) == 2)
        if i == 200:
            members[0].kill()
    producer.close()
    ends = {Partition("things", n): log.end(Partition("things", n)) for n in range(4)}
    watcher = tmp_path / "groups" / "g" / "offsets"

    def done() -> bool:
        return all((watcher / f"things-{p.number}").exists() for p in ends) and all(
            int((watcher / f"things-{p.number}").read_text() or 0) == end for p, end in ends.items()
        )

    until(done)
    members[1].kill()
    for member in members:
        lines += member.communicate()[0].splitlines()
    read = [line.split()[2] for line in lines if len(line.split()) == 3]
    assert set(read) == set(values)
    assert len(read) <= len(values) + 7


def test_a_group_s_name_is_a_file_name(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    for group in ("../up", "", "a b"):
        if group:
            with pytest.raises(InputError, match="group"):
                log.consumer(group, ["things"])


def test_compaction_leaves_the_newest_record_of_each_key(tmp_path: Path) -> None:
    now = [DAY_MS]
    log = log_at(tmp_path, compacted=True, retention=None, clock_ms=lambda: now[0])
    for round_ in range(30):
        for key in "abc":
            append(log, f"{key}{round_}", key=key)
    append(log, None, key="c")
    now[0] += 2 * DAY_MS
    log.maintain()
    found = everything(log)
    newest = {r.key: r.value for r in found}
    assert newest[b"a"] == b"a29"
    assert newest[b"b"] == b"b29"
    assert newest.get(b"c") is None
    assert len(found) <= 3
    assert [r.offset for r in found] == sorted({r.offset for r in found})
    append(log, "a30", key="a")
    assert everything(log)[-1].offset == 91
    now[0] += 2 * DAY_MS
    log.maintain()
    assert {r.key: r.value for r in everything(log)} == {b"a": b"a30", b"b": b"b29"}


def test_a_reader_goes_on_through_compaction_and_retention(tmp_path: Path) -> None:
    now = [DAY_MS]
    log = log_at(tmp_path, retention=timedelta(days=3), clock_ms=lambda: now[0])
    append(log, *(f"old{i}" for i in range(40)))
    slow = log.consumer("", ["things"])
    assert texts(slow.poll(0, 5)) == [f"old{i}" for i in range(5)]
    now[0] += 4 * DAY_MS
    append(log, *(f"new{i}" for i in range(40)))
    log.maintain()
    rest: list[Record] = []
    while records := slow.poll(0):
        rest += records
    assert texts(rest)[-40:] == [f"new{i}" for i in range(40)]
    left = texts(everything(log))
    assert left[-40:] == [f"new{i}" for i in range(40)]
    assert len(left) < 50, "records past their time are still there"
    now[0] += 4 * DAY_MS
    log.maintain()
    log.maintain()
    assert everything(log) == []
    append(log, "last")
    assert everything(log)[0].offset == 80
    slow.close()


def test_a_group_whose_offset_is_gone_goes_on_at_the_oldest(tmp_path: Path) -> None:
    log = log_at(tmp_path)
    append(log, *(f"v{i}" for i in range(60)))
    with log.consumer("g", ["things"]) as consumer:
        consumer.poll(5, 3)
        consumer.commit()
    assert log.trim(ONE, 45) > 0
    with log.consumer("g", ["things"]) as consumer:
        first = consumer.poll(5)[0]
    assert 3 < first.offset <= 45


def test_a_full_disk_keeps_the_log_whole_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_at(tmp_path)
    append(log, "before")
    real = os.pwrite

    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "things" / "0").glob("*.log"))

    before = size()

    def full(file: int, data: bytes, at: int) -> int:
        if len(data) > 10:
            return real(file, bytes(data)[:10], at)
        raise OSError(28, "No space left on device")

    producer = log.producer()
    monkeypatch.setattr(os, "pwrite", full)
    waiting = producer.append("things", b"k", b"lost?")
    with pytest.raises(LogUnavailable, match="No space left on device"):
        producer.flush(1)
    with pytest.raises(LogUnavailable):
        waiting.result(1)
    monkeypatch.undo()
    assert size() == before
    append(log, "after")
    assert texts(everything(log)) == ["before", "after"]
