"""Listing and replaying the dead letters of a topic, in their order.

A consumer group's offset on `<topic>.dlq` separates replayed letters from waiting ones. A letter that still cannot be
decoded is appended behind the others, so that it is kept for the next version, or until it is too old.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from streaming.codec import EventError
from streaming.dead_letters import Origin, origin
from streaming.dead_letters import replay as replay_letter
from streaming.log import Consumer, EventLog, LogUnavailable, Partition, Record
from streaming.topics import DLQ_SUFFIX
from streaming.workers.task import arrival

GROUP = "dlq"
JOIN_S = 60.0
FLUSH_S = 30.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """Number of letters appended to their topic again, and of those kept because they still cannot be decoded."""

    sent: int = 0
    kept: int = 0


def letters(log: EventLog, topic: str) -> Iterator[tuple[Record, Origin]]:
    """Yield the waiting letters with their origins. InputError for an unknown topic."""
    with _reader(log, topic) as (consumer, ends):
        yield from _until(consumer, ends)


def replay(log: EventLog, topic: str, most: int | None = None) -> Replayed:
    """Replay up to `most` letters (None: all that were there at the start) to the topic that they came from.

    Their consumers get them as new records without the headers of their origin. A letter may be replayed twice if this
    process is killed.
    """
    producer = log.producer()
    done = Replayed()
    try:
        with _reader(log, topic) as (consumer, ends):
            at: dict[Partition, int] = {}
            for letter, came_from in _until(consumer, ends):
                if most is not None and done.sent + done.kept >= most:
                    break
                if _is_event(letter, came_from):
                    replay_letter(producer, letter)
                    done = replace(done, sent=done.sent + 1)
                else:
                    producer.append(letter.topic, letter.key, letter.value, letter.headers)
                    done = replace(done, kept=done.kept + 1)
                at[letter.place] = letter.offset + 1
            producer.flush(FLUSH_S)
            if at:
                consumer.commit(at)
    finally:
        producer.close()
    return done


@contextmanager
def _reader(log: EventLog, topic: str) -> Iterator[tuple[Consumer, dict[Partition, int]]]:
    """Join the group that owns the topic's letters; yield its consumer and where the letters end.

    Raises:
        LogUnavailable: if another process replays them now.
    """
    owned: set[Partition] = set()
    with log.consumer(GROUP, [topic + DLQ_SUFFIX], on_assigned=owned.update) as consumer:
        consumer.pause({Partition(topic + DLQ_SUFFIX, 0)})
        end = time.monotonic() + JOIN_S
        while not owned:
            if time.monotonic() > end:
                raise LogUnavailable(f"{topic}{DLQ_SUFFIX}: another replay is at work: wait for it")
            early = consumer.poll(0.1, 1)
            for record in early:
                consumer.seek(record.place, record.offset)
            if early:
                break
        consumer.pause(frozenset())
        yield consumer, consumer.ends()


def _until(consumer: Consumer, ends: dict[Partition, int]) -> Iterator[tuple[Record, Origin]]:
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for record in consumer.poll(0.5):
            if record.offset < ends[record.place]:
                yield record, origin(record)


def _is_event(letter: Record, came_from: Origin) -> bool:
    try:
        arrival(replace(letter, topic=came_from.topic))
    except EventError:
        return False
    return True
