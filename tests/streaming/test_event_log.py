"""The contract of the event log, on SQLite and on Kafka: order, acknowledgement, members, offsets, growth."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mechanism.errors import ConfigError, InputError
from streaming.dead_letters import dead_letter, origin, replay
from streaming.embedded import EmbeddedLog
from streaming.log import Member, Partition, Record
from streaming.topics import LARGEST_RECORD, Topic, partition_of

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # see conftest.swept
Read = Callable[..., list[Record]]
VALUES = [f"v{i:03d}" for i in range(60)]
WAIT_S = 40.0


def texts(records: list[Record]) -> list[str]:
    return [r.value.decode() for r in records if r.value is not None]


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
        first.commit({here: 20})
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


def test_a_position_kept_elsewhere_goes_before_the_committed_one(side: Any, read: Read) -> None:
    topic = side.topic(partitions=1)
    here = Partition(topic, 0)
    side.write(topic, VALUES)
    with side.log.consumer(f"{side.own}-readers", [topic]) as first:
        first.commit({here: 60})
    consumer = side.consumer(topic)
    consumer.seek(here, 41)
    assert consumer.position(here) == 41
    assert texts(read(consumer, 19)) == VALUES[41:]


def test_members_own_partitions_by_number_in_every_topic(side: Any, read: Read) -> None:
    clicks, answers = side.topic("clicks", 5), side.topic("answers", 3)
    members = [side.consumer([clicks, answers], member=Member(i, 2)) for i in range(2)]
    assert members[0].assignment() == {Partition(clicks, n) for n in (0, 2, 4)} | {
        Partition(answers, n) for n in (0, 2)
    }
    assert members[1].assignment() == {Partition(clicks, n) for n in (1, 3)} | {Partition(answers, 1)}
    side.write(clicks, VALUES)
    found: list[list[Record]] = [[], []]
    end = time.monotonic() + WAIT_S
    while len(found[0]) + len(found[1]) < 60 and time.monotonic() < end:
        for member, own in zip(members, found, strict=True):
            own.extend(member.poll(0.1))
            assert {r.place for r in own} <= member.assignment()
    assert sorted(texts(found[0] + found[1])) == VALUES


def test_a_member_beyond_the_partitions_reads_nothing_until_there_are_more(side: Any, read: Read) -> None:
    topic = side.topic(partitions=2)
    idle = side.consumer(topic, member=Member(3, 4))
    assert idle.assignment() == frozenset()
    assert idle.poll(0.01) == []
    assert idle.ends() == {}
    side.log.create([Topic(topic, 8)])
    end = time.monotonic() + WAIT_S
    while not (new := idle.discover()):
        assert time.monotonic() < end, "new partitions were not found"
    assert new == idle.assignment() == {Partition(topic, 3), Partition(topic, 7)}


def test_a_topic_grows_while_it_is_written_and_read(side: Any, read: Read) -> None:
    topic = side.topic(partitions=2)
    producer = side.log.producer()
    consumer = side.consumer(topic)
    producer.append(topic, b"a", b"first").result(WAIT_S)
    assert texts(read(consumer, 1)) == ["first"]
    side.log.create([Topic(topic, 6)])
    end = time.monotonic() + WAIT_S
    while consumer.discover() != {Partition(topic, n) for n in (2, 3, 4, 5)}:
        assert time.monotonic() < end, "new partitions were not found"
    assert consumer.discover() == frozenset()
    another = side.log.producer()
    for value in VALUES:
        another.append(topic, value.encode(), value.encode())
        producer.append(topic, value.encode(), value.encode())  # it may know of the old partitions alone
    for writer in (another, producer):
        writer.flush(WAIT_S)
        writer.close()
    records = read(consumer, 120)
    assert Counter(texts(records)) == {value: 2 for value in VALUES}
    assert {record.partition for record in records} == set(range(6))


def test_a_consumer_refuses_what_is_not_its_own(side: Any) -> None:
    topic = side.topic()
    first = side.consumer(topic, member=Member(0, 2))
    foreign = Partition(topic, 1)
    for call in (lambda: first.seek(foreign, 0), lambda: first.position(foreign), lambda: first.commit({foreign: 1})):
        with pytest.raises(InputError, match="it belongs to another member"):
            call()
    with pytest.raises(InputError, match="without a group"):
        side.consumer(topic, "").commit({Partition(topic, 0): 1})


def test_creating_a_topic_again_changes_nothing_but_the_partitions_it_lacks(side: Any) -> None:
    topic = side.topic(partitions=3)
    side.log.create([Topic(topic, 2), Topic(topic + "-more", 2)])
    with side.log.consumer("", [topic, topic + "-more"]) as consumer:
        assert Counter(partition.topic for partition in consumer.ends()) == {topic: 3, topic + "-more": 2}


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "0/0", "a/b", "0/1/2"])
def test_a_member_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="0/3"):
        Member.parse(text)


def test_every_partition_has_one_member() -> None:
    members = [Member.parse(f"{i}/5") for i in range(5)]
    assert all(sum(member.owns(number) for member in members) == 1 for number in range(23))


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
    topic = side.topic(partitions=1, retention=None)
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


def test_a_log_is_known_by_its_identity(side: Any, tmp_path: Path) -> None:
    assert side.log.identity() == side.log.identity() != ""
    another = EmbeddedLog(tmp_path / "another")
    assert another.identity() != side.log.identity()
    assert EmbeddedLog(tmp_path / "another").identity() == another.identity()
