"""Bytes a second of this project's Kafka log and of plain kafka-python, alternating, with the same records."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import msgspec
from kafka import KafkaConsumer, KafkaProducer

from benchmarks.streaming.event_samples import interaction
from streaming.codec import encode
from streaming.kafka.log import KafkaLog
from streaming.kafka.settings import KafkaSettings
from streaming.topics import Topic

ROUNDS = 3


class Speed(msgspec.Struct, kw_only=True):
    """Megabytes a second and a CPU second of the client's process, each the best of the rounds."""

    per_s: float = 0.0
    per_cpu_s: float = 0.0

    def better(self, size: int, seconds: float, cpu_s: float) -> Speed:
        """Return the speed with one more round included."""
        per_s, per_cpu_s = size / seconds / 1e6, size / max(cpu_s, 1e-9) / 1e6
        return Speed(per_s=round(max(self.per_s, per_s), 2), per_cpu_s=round(max(self.per_cpu_s, per_cpu_s), 2))


def measure(settings: KafkaSettings, records: int) -> dict[str, Speed]:
    """Write and read `records` interactions with both clients, ROUNDS times, each round in new topics."""
    events = [interaction(number) for number in range(records)]
    data = [(event.key.encode(), encode(event)) for event in events]
    size = sum(len(key) + len(value) for key, value in data)
    log, found = KafkaLog(settings), dict[str, Speed]()

    def timed(name: str, work: Callable[[], None]) -> None:
        began, cpu = time.perf_counter(), time.process_time()
        work()
        spent = time.perf_counter() - began, time.process_time() - cpu
        found[name] = found.get(name, Speed()).better(size, *spent)

    for number in range(ROUNDS):
        ours, plain = f"bench-ours-{number}", f"bench-plain-{number}"
        log.create([Topic(ours), Topic(plain)])
        timed("produced_plain", partial(_plain_produce, settings, plain, data))
        timed("produced", partial(_produce, log, ours, data))
        timed("consumed_plain", partial(_plain_consume, settings, plain, records))
        timed("consumed", partial(_consume, log, ours, records))
    return found


def _produce(log: KafkaLog, topic: str, data: list[tuple[bytes, bytes]]) -> None:
    producer = log.producer()
    for key, value in data:
        producer.append(topic, key, value)
    producer.flush(120)
    producer.close()


def _plain_produce(settings: KafkaSettings, topic: str, data: list[tuple[bytes, bytes]]) -> None:
    producer = KafkaProducer(bootstrap_servers=settings.servers, compression_type=settings.compression)
    for key, value in data:
        producer.send(topic, value, key)
    producer.flush(timeout=120)
    producer.close()


def _consume(log: KafkaLog, topic: str, records: int) -> None:
    with log.consumer("", [topic]) as consumer:
        read = 0
        while read < records:
            read += len(consumer.poll(1.0, 500))


def _plain_consume(settings: KafkaSettings, topic: str, records: int) -> None:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=settings.servers, auto_offset_reset="earliest", enable_auto_commit=False
    )
    read = 0
    while read < records:
        read += sum(map(len, consumer.poll(1_000, max_records=500).values()))
    consumer.close()
