"""The contract of the event log, on files and on Kafka alike: order, acknowledgement, groups, offsets, hand-over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import InputError
from streaming.addresses import ensure
from streaming.dead_letters import dead_letter, origin, replay
from streaming.embedded import EmbeddedLog
from streaming.log import Consumer, Fenced, Partition, Record
from streaming.topics import LARGEST_RECORD, Topic, partition_of

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see conftest.swept
Read = Callable[..., list[Record]]
VALUES = [f"v{i:03d}" for i in range(60)]
WAIT_S = 40.0


def texts(records: list[Record]) -> list[str]:
    return [r.value.decode() for r in records if r.value is not None]


def settle(consumers: list[Consumer], done: Callable[[], bool]) -> list[Record]:
    """Polls members of a group in turn until `done`."""
    found: list[Record] = []
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, "the group did not settle"
        for consumer in consumers:
            found += consumer.poll(0.1)
    return found


def test_a_record_comes_back_as_it_was_written(side: Any, read: Read) -> None:
    topic, before = side.topic(), datetime.now(UTC)
    producer = side.log.producer()
    headers = (("kind", b"\x00\xff"), ("kind", b"again"))
    appended = producer.append(topic, b"key", "v\u00e4lue".encode(), headers).result(WAIT_S)
    producer.close()
    (record,) = read(side.consumer(topic), 1)
    assert (record.key, record.value, record.headers) == (b"key", "v\u00e4lue".encode(), headers)
    assert (record.topic, record.partition, record.offset) == appended
    assert before - timedelta(seconds=1) < record.timestamp < datetime.now(UTC) + timedelta(seconds=1)
    assert "key" not in repr(record)
    assert "lue" not in repr(record)


def test_records_of_a_key_stand_in_one_partition_in_their_order(side: Any, read: Read) -> None:
    topic = side.topic()
    side.write(topic, VALUES, key=lambda value: value[-1])
    records = read(side.consumer(topic), len(VALUES))
    for digit in "0123456789":
        own = [r for r in records if r.key == digit.encode()]
        assert texts(own) == [value for value in VALUES if value[-1] == digit]
        assert {r.partition for r in own} == {partition_of(digit.encode(), 3)}
    for number in range(3):
        assert [r.offset for r in records if r.partition == number] == list(
            range(sum(r.partition == number for r in records))
        )


def test_every_acknowledgement_is_the_record_s_own_place(side: Any, read: Read) -> None:
    topic = side.topic()
    producer = side.log.producer()
    sent = {value: producer.append(topic, value.encode(), value.encode()) for value in VALUES}
    producer.flush(WAIT_S)
    producer.close()
    found = {r.value.decode(): (r.topic, r.partition, r.offset) for r in read(side.consumer(topic), 60) if r.value}
    assert found == {value: tuple(ack.result(0)) for value, ack in sent.items()}


def test_each_group_reads_everything(side: Any, read: Read) -> None:
    topic = side.topic()
    side.write(topic, VALUES)
    for group in ("judges", "ledgers", ""):
        assert sorted(texts(read(side.consumer(topic, group), 60))) == VALUES


def test_a_member_goes_on_where_its_group_committed(side: Any, read: Read) -> None:
    topic = side.topic(partitions=1)
    side.write(topic, VALUES)
    here = Partition(topic, 0)
    with side.log.consumer(side.own, [topic]) as first:
        records = first.poll(WAIT_S, 20)
        while len(records) < 20:
            records += first.poll(1, 20 - len(records))
        assert first.committed(here) is None
        assert first.position(here) == 20
        first.commit()
        read(first, 40)  # not committed: comes again
        assert first.committed(here) == 20
        assert first.ends() == {here: 60}
    with side.log.consumer(side.own, [topic]) as second:
        assert texts(read(second, 40)) == VALUES[20:]
        second.commit({here: 50})
    with side.log.consumer(side.own, [topic]) as third:
        assert texts(read(third, 10)) == VALUES[50:]


def test_reading_can_go_back_and_ahead(side: Any, read: Read) -> None:
    topic = side.topic(partitions=1)
    side.write(topic, VALUES)
    consumer = side.consumer(topic)
    read(consumer, 60)
    consumer.seek(Partition(topic, 0), 7)
    assert texts(read(consumer, 53)) == VALUES[7:]
    consumer.seek(Partition(topic, 0), 59)
    assert texts(read(consumer, 1)) == VALUES[59:]


@pytest.mark.parametrize("group", ["readers", ""])
def test_offsets_kept_elsewhere_go_before_the_committed_ones(side: Any, read: Read, group: str) -> None:
    topic = side.topic(partitions=1)
    side.write(topic, VALUES)
    if group:
        with side.log.consumer(f"{side.own}-{group}", [topic]) as first:
            read(first, 60)
            first.commit()
    kept = {Partition(topic, 0): 41}
    consumer = side.consumer(topic, group, on_assigned=lambda assigned: {p: kept[p] for p in assigned})
    assert texts(read(consumer, 19)) == VALUES[41:]


def test_members_share_the_partitions_and_co_partitioned_topics_stay_together(side: Any, read: Read) -> None:
    clicks, answers = side.topic("clicks"), side.topic("answers")
    members = [side.consumer([clicks, answers]) for _ in range(2)]
    settle(members, lambda: all(m.assignment() for m in members) and sum(len(m.assignment()) for m in members) == 6)
    first, second = (m.assignment() for m in members)
    assert not first & second
    for own in (first, second):
        assert {p.number for p in own if p.topic == clicks} == {p.number for p in own if p.topic == answers}
    side.write(clicks, VALUES)
    found: list[Record] = []
    end = time.monotonic() + WAIT_S
    while len(found) < 60 and time.monotonic() < end:
        for member in members:
            records = member.poll(0.1)
            assert {r.place for r in records} <= member.assignment()
            found += records
    assert sorted(texts(found)) == VALUES


def test_a_new_member_takes_over_where_the_old_one_says(side: Any, read: Read) -> None:
    """What the old owner's callback commits is where the new owner begins; nobody reads a record twice or misses it."""
    topic = side.topic(partitions=2)
    side.write(topic, VALUES)
    seen: dict[Partition, int] = {}
    revoked: list[Partition] = []

    def give_back(partitions: list[Partition]) -> dict[Partition, int]:
        revoked.extend(partitions)
        return {p: seen[p] for p in partitions if p in seen}

    old = side.consumer(topic, on_revoked=give_back)
    first = read(old, 60)
    seen |= {r.place: r.offset + 1 for r in first}
    new = side.consumer(topic)
    again = settle([old, new], lambda: len(old.assignment()) == len(new.assignment()) == 1)
    assert new.assignment() <= set(revoked)
    side.write(topic, ["later-a", "later-b", "later-c", "later-d"])
    end = time.monotonic() + WAIT_S
    while len(again) < 4 and time.monotonic() < end:
        again += old.poll(0.1) + new.poll(0.1)
    assert sorted(texts(again)) == ["later-a", "later-b", "later-c", "later-d"]


def test_a_member_that_leaves_gives_its_partitions_back(side: Any, read: Read) -> None:
    topic = side.topic()
    events: list[str] = []
    stays = side.consumer(topic)
    leaves = side.log.consumer(f"{side.own}-readers", [topic], on_revoked=lambda p: events.append("revoked"))
    settle([stays, leaves], lambda: bool(leaves.assignment()) and len(stays.assignment() | leaves.assignment()) == 3)
    leaves.close()
    assert events
    settle([stays], lambda: len(stays.assignment()) == 3)


def test_a_partition_that_is_not_ours_is_refused(side: Any) -> None:
    topic = side.topic()
    members = [side.consumer(topic) for _ in range(2)]
    settle(members, lambda: all(m.assignment() for m in members) and sum(len(m.assignment()) for m in members) == 3)
    foreign = next(iter(members[1].assignment()))
    with pytest.raises(InputError, match="poll until it is assigned"):
        members[0].seek(foreign, 0)
    with pytest.raises(InputError, match="poll until it is assigned"):
        members[0].position(foreign)
    with pytest.raises(InputError, match="without a group"):
        side.consumer(topic, "").commit()


def test_topics_are_created_once_and_keep_their_partitions(side: Any) -> None:
    topic = side.topic(partitions=2)
    side.log.create([Topic(topic, 2)])
    with pytest.raises(InputError, match=r"partitions of topic .*: 5: it is there with 2"):
        side.log.create([Topic(topic, 5)])


def test_unknown_topics_and_large_records_are_refused(side: Any) -> None:
    producer = side.log.producer()
    with pytest.raises(InputError, match="create it first"):
        producer.append(f"{side.own}-nowhere", b"k", b"v")
    with pytest.raises(InputError, match="create it first"):
        side.consumer(f"{side.own}-nowhere")
    topic = side.topic()
    with pytest.raises(InputError, match=str(LARGEST_RECORD)):
        producer.append(topic, b"k", b"x" * LARGEST_RECORD)
    producer.close()


def test_the_largest_record_fits(side: Any, read: Read) -> None:
    topic, value = side.topic(), "x" * (LARGEST_RECORD - 1)
    side.write(topic, [value, "small"], key=lambda _: "k")
    assert texts(read(side.consumer(topic), 2)) == [value, "small"]


def test_a_record_without_value_is_kept_apart_from_an_empty_one(side: Any, read: Read) -> None:
    topic = side.topic(partitions=1, compacted=True, retention=None)
    producer = side.log.producer()
    for value in (b"", None):
        producer.append(topic, b"k", value)
    producer.flush(WAIT_S)
    producer.close()
    assert [r.value for r in read(side.consumer(topic), 2)] == [b"", None]


def test_a_dead_letter_says_where_it_stood_and_comes_back(side: Any, read: Read) -> None:
    topic = side.topic(partitions=1)
    dlq = side.topic("things.dlq", 1)
    assert dlq == topic + ".dlq"
    producer = side.log.producer()
    producer.append(topic, b"k", b"\xffpoison", (("trace", b"7"),)).result(WAIT_S)
    (poison,) = read(side.consumer(topic), 1)
    dead_letter(producer, poison, InputError("clicks event", "\xff", "no JSON")).result(WAIT_S)
    (letter,) = read(side.consumer(dlq, "undertakers"), 1)
    found = origin(letter)
    assert (found.topic, found.partition, found.offset, found.timestamp) == (topic, 0, 0, poison.timestamp)
    assert found.error.startswith("InputError: clicks event")
    assert (letter.key, letter.value) == (b"k", b"\xffpoison")
    replay(producer, letter).result(WAIT_S)
    producer.close()
    again = read(side.consumer(topic, "others"), 2)[1]
    assert (again.key, again.value, again.headers) == (poison.key, poison.value, poison.headers)
    with pytest.raises(InputError, match="not a dead letter"):
        origin(poison)


def test_a_commit_for_a_partition_of_another_member_is_fenced(side: Any) -> None:
    topic = side.topic()
    members = [side.consumer(topic) for _ in range(2)]
    settle(members, lambda: all(m.assignment() for m in members) and sum(len(m.assignment()) for m in members) == 3)
    foreign = next(iter(members[1].assignment()))
    with pytest.raises(Fenced, match="another member"):
        members[0].commit({foreign: 1})
    assert members[1].committed(foreign) is None


def test_a_log_is_known_by_its_identity(side: Any, tmp_path: Path) -> None:
    assert side.log.identity() == side.log.identity() != ""
    another = EmbeddedLog(tmp_path / "another")
    assert another.identity() != side.log.identity()
    assert EmbeddedLog(tmp_path / "another").identity() == another.identity()


def test_topics_that_are_there_stay_as_they_are(side: Any) -> None:
    name = side.topic()
    ensure(side.log, [Topic(name, partitions=7), Topic(name + "-more", partitions=2)])
    with side.log.consumer("", [name, name + "-more"]) as consumer:
        assert Counter(partition.topic for partition in consumer.ends()) == {name: 3, name + "-more": 2}
