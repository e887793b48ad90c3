"""The waiting dead letters of a topic, and their replay or removal, in order or one by one.

A dead letter is identified by its offset in `<topic>.dlq`. The topic `MARKS` records the letters that were replayed or
discarded; the offset that the group `GROUP` commits is that of the oldest letter that still waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from mechanism.errors import InputError
from streaming.codec import EventError
from streaming.dead_letters import Origin, origin
from streaming.dead_letters import replay as replay_letter
from streaming.log import Consumer, EventLog, LogProducer, Partition, Record
from streaming.topics import DLQ_SUFFIX, MARKS
from streaming.workers.task import arrival

GROUP = "dlq"
FLUSH_S = 30.0


class Mark(msgspec.Struct, frozen=True):
    """A letter that was replayed or discarded: a record of `MARKS`, with the letter's topic as its key."""

    topic: str
    offset: int
    action: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Replayed:
    """Number of letters appended to their topic again, and of those kept because they still cannot be decoded."""

    sent: int = 0
    kept: int = 0


def letters(log: EventLog, topic: str) -> Iterator[tuple[Record, Origin]]:
    """Yield the waiting letters of a topic with their origins (InputError for a topic that was not created)."""
    with _letters_of(log, topic) as (_, waiting):
        yield from ((letter, origin(letter)) for letter in waiting.values())


def find(log: EventLog, topic: str, offset: int) -> tuple[Record, Origin]:
    """Return a waiting letter (InputError if there is none at this offset)."""
    with _letters_of(log, topic) as (_, waiting):
        (letter,) = _chosen(topic, waiting, [offset])
    return letter, origin(letter)


def replay(log: EventLog, topic: str, offsets: Collection[int] = (), most: int | None = None) -> Replayed:
    """Append letters to their original topic again: those at `offsets`, or else up to `most`, oldest first.

    Consumers read them as new records, without the headers of their origin. A letter that still cannot be decoded is
    kept. A letter may be replayed twice if this process is killed.
    """
    done = Replayed()
    with _letters_of(log, topic) as (consumer, waiting), _producer(log) as producer:
        handled = []
        for letter in _chosen(topic, waiting, offsets) if offsets else list(waiting.values())[:most]:
            if _is_event(letter):
                replay_letter(producer, letter)
                handled.append(letter)
                done = replace(done, sent=done.sent + 1)
            else:
                done = replace(done, kept=done.kept + 1)
        # Replay before marking: a kill in between repeats the letters, and consumers recognise repetitions.
        producer.flush(FLUSH_S)
        _handle(consumer, producer, waiting, handled, "replay")
    return done


def discard(log: EventLog, topic: str, offsets: Collection[int]) -> int:
    """Remove the letters at these offsets from the waiting ones; return their number.

    Their records stay in the log until their retention has passed. InputError propagates if no letter waits at one of
    the offsets.
    """
    with _letters_of(log, topic) as (consumer, waiting), _producer(log) as producer:
        chosen = _chosen(topic, waiting, offsets)
        _handle(consumer, producer, waiting, chosen, "discard")
    return len(chosen)


def _handle(
    consumer: Consumer, producer: LogProducer, waiting: Mapping[int, Record], handled: Collection[Record], action: str
) -> None:
    """Mark letters as replayed or discarded, and commit the offset of the oldest one that still waits."""
    for letter in handled:
        mark = Mark(letter.topic, letter.offset, action, datetime.now(UTC))
        producer.append(MARKS.name, letter.topic.encode(), msgspec.json.encode(mark))
    producer.flush(FLUSH_S)
    left = waiting.keys() - {letter.offset for letter in handled}
    (partition,) = consumer.assignment()
    consumer.commit({partition: min(left, default=consumer.position(partition))})


def _chosen(topic: str, waiting: Mapping[int, Record], offsets: Collection[int]) -> list[Record]:
    if missing := sorted(set(offsets) - waiting.keys()):
        remedy = f"no dead letter of {topic} waits there: `llm-auction dlq list --topic {topic}` names them"
        raise InputError("dead letter", missing[0], remedy)
    return [waiting[offset] for offset in sorted(set(offsets))]


@contextmanager
def _letters_of(log: EventLog, topic: str) -> Iterator[tuple[Consumer, dict[int, Record]]]:
    """Read the waiting letters of a topic, by offset."""
    name = topic + DLQ_SUFFIX
    log.create([MARKS])
    with log.consumer("", [MARKS.name]) as consumer:
        marks = [msgspec.json.decode(record.value or b"", type=Mark) for record in _until_end(consumer)]
    handled = {mark.offset for mark in marks if mark.topic == name}
    with log.consumer(GROUP, [name]) as consumer:
        yield consumer, {record.offset: record for record in _until_end(consumer) if record.offset not in handled}


def _until_end(consumer: Consumer) -> Iterator[Record]:
    ends: dict[Partition, int] = consumer.ends()
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        yield from consumer.poll(0.5)


@contextmanager
def _producer(log: EventLog) -> Iterator[LogProducer]:
    producer = log.producer()
    try:
        yield producer
    finally:
        producer.close()


def _is_event(letter: Record) -> bool:
    try:
        arrival(replace(letter, topic=origin(letter).topic))
    except EventError:
        return False
    return True
