"""Appends to Kafka: idempotent, acknowledged by all in-sync copies, in the order of each key."""

from __future__ import annotations

import threading
from typing import Any

from kafka import KafkaAdminClient
from kafka import KafkaProducer as Client
from kafka import errors as kafka

from mechanism.errors import InputError
from streaming.kafka.errors import translated
from streaming.kafka.settings import KafkaSettings
from streaming.log import Appended, Headers
from streaming.topics import LARGEST_RECORD, check_size, partition_of

ROOM = 1 << 16
"""What Kafka adds to a record and its batch."""
CLOSE_S = 5.0
MOST_UNFLUSHED = 100_000


class _Sent:
    """A record on its way."""

    def __init__(self, future: Any, topic: str) -> None:
        self._future = future
        self._topic = topic

    def result(self, timeout_s: float) -> Appended:
        with translated(f"append to {self._topic}"):
            told = self._future.get(timeout=timeout_s)
        return Appended(told.topic, told.partition, told.offset)

    def is_acknowledged(self) -> bool:
        """Whether it is written."""
        return bool(self._future.succeeded())


class KafkaLogProducer:
    """Implements `streaming.log.LogProducer`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._counts: dict[str, int] = {}
        self._sent: list[_Sent] = []
        self._lock = threading.Lock()
        request_ms = min(10_000, round(settings.delivery_s * 500))
        options = settings.options() | {
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": 5,
            "batch_size": 1 << 17,
            "max_request_size": LARGEST_RECORD + ROOM,
            "delivery_timeout_ms": round(settings.delivery_s * 1000),
            "request_timeout_ms": request_ms,
            "max_block_ms": round(settings.delivery_s * 1000),
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        with translated("connect a producer"):
            self._client = Client(**options)

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> _Sent:
        check_size(topic, key, value, headers)
        if (count := self._counts.get(topic)) is None:
            count = self._counts[topic] = self._count(topic)
        with translated(f"append to {topic}"):
            future = self._client.send(topic, value, key, list(headers), partition_of(key, count))
        sent = _Sent(future, topic)
        with self._lock:
            self._sent.append(sent)
            if len(self._sent) >= MOST_UNFLUSHED:
                self._sent = [waiting for waiting in self._sent if not waiting.is_acknowledged()]
        return sent

    def flush(self, timeout_s: float) -> None:
        with self._lock:
            sent, self._sent = self._sent, []
        with translated("flush"):
            self._client.flush(timeout=timeout_s)
        for waiting in sent:
            if not waiting.is_acknowledged():
                waiting.result(0)

    def close(self) -> None:
        self._client.close(timeout=min(CLOSE_S, self._settings.delivery_s))

    def _count(self, topic: str) -> int:
        with translated(f"look at topic {topic}"):
            admin = KafkaAdminClient(**self._settings.options())
            try:
                return partition_count(admin, topic)
            finally:
                admin.close()


def partition_count(admin: Any, topic: str) -> int:
    """How many partitions a topic has. Raises InputError where it was not created."""
    (told,) = admin.describe_topics([topic])
    if told["error_code"] == kafka.UnknownTopicOrPartitionError.errno:
        raise InputError("topic", topic, "create it first")
    return len(told["partitions"])
