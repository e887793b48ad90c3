"""Dead letters seen and brought back: those of a topic that were not dealt with yet, in their order.

What was dealt with is a consumer group's offset on `<topic>.dlq`; a letter that still is no event is put behind the
others again, so that it is kept for the next version, or until it is too old.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from streaming.codec import EventError
from streaming.dead_letters import Fate, fate, revive
from streaming.log import Consumer, EventLog, LogUnavailable, Partition, Record
from streaming.topics import DLQ_SUFFIX
from streaming.workers.task import arrival

GROUP = "dlq"
JOIN_S = 60.0
FLUSH_S = 30.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many letters went back to their topic, and how many are still no events and were kept."""

    sent: int = 0
    kept: int = 0


def letters(log: EventLog, topic: str) -> Iterator[tuple[Record, Fate]]:
    """The letters that wait, with where they stood and why. Raises InputError for a topic that is not there."""
    with _reader(log, topic) as (consumer, ends):
        yield from _until(consumer, ends)


def replay(log: EventLog, topic: str, most: int | None = None) -> Replayed:
    """Puts up to `most` letters (None: all that were there at the start) back to the topic they came from, without
    their dead letter's headers. Their consumers get them as new records; a letter may go back twice if this is killed.
    """
    producer = log.producer()
    done = Replayed()
    try:
        with _reader(log, topic) as (consumer, ends):
            at: dict[Partition, int] = {}
            for letter, told in _until(consumer, ends):
                if most is not None and done.sent + done.kept >= most:
                    break
                if _is_event(letter, told):
                    revive(producer, letter)
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
    """A member of the group that owns the topic's letters, and where they end. Raises LogUnavailable where another
    one deals with them now."""
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


def _until(consumer: Consumer, ends: dict[Partition, int]) -> Iterator[tuple[Record, Fate]]:
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for record in consumer.poll(0.5):
            if record.offset < ends[record.place]:
                yield record, fate(record)


def _is_event(letter: Record, told: Fate) -> bool:
    try:
        arrival(replace(letter, topic=told.topic))
    except EventError:
        return False
    return True
