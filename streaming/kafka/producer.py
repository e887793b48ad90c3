"""The producer of a log in Kafka: compressed and idempotent appends in the order of each key, with `acks=all`."""

from __future__ import annotations

import threading
from typing import Any

from kafka import KafkaAdminClient
from kafka import KafkaProducer as Client
from kafka import errors as kafka
from kafka.partitioner import Partitioner

from mechanism.errors import InputError
from streaming.kafka.errors import translated
from streaming.kafka.settings import KafkaSettings
from streaming.log import Appended, Headers
from streaming.topics import LARGEST_RECORD, check_size, partition_of

RECORD_OVERHEAD = 1 << 16
"""Bytes that Kafka adds to a record and its batch."""
CLOSE_S = 5.0
MOST_UNFLUSHED = 100_000
METADATA_MS = 30_000
"""Interval at which a producer reads the topics' numbers of partitions."""


class _ByKey(Partitioner):  # type: ignore[misc]
    """Partitions by `streaming.topics.partition_of`, among the topic's current number of partitions."""

    def partition(self, topic: str, key: Any, key_bytes: bytes, value: Any, value_bytes: Any, cluster: Any) -> int:
        return partition_of(key_bytes, len(cluster.partitions_for_topic(topic)))


class _Sent:
    """Implements `streaming.log.Acknowledgement`."""

    def __init__(self, future: Any, topic: str) -> None:
        self._future = future
        self._topic = topic

    def result(self, timeout_s: float) -> Appended:
        with translated(f"append to {self._topic}"):
            place = self._future.get(timeout=timeout_s)
        return Appended(place.topic, place.partition, place.offset)

    def is_acknowledged(self) -> bool:
        """Return whether the record is durable."""
        return bool(self._future.succeeded())


class KafkaLogProducer:
    """Implements `streaming.log.LogProducer`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._known: set[str] = set()
        self._sent: list[_Sent] = []
        self._lock = threading.Lock()
        request_ms = min(10_000, round(settings.delivery_s * 500))
        options = settings.options() | {
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if settings.compression == "none" else settings.compression,
            "partitioner": _ByKey(),
            "metadata_max_age_ms": METADATA_MS,
            "linger_ms": 5,
            "batch_size": 1 << 17,
            "max_request_size": LARGEST_RECORD + RECORD_OVERHEAD,
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
        if topic not in self._known:
            self._check(topic)
            self._known.add(topic)
        with translated(f"append to {topic}"):
            future = self._client.send(topic, value, key, list(headers))
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

    def _check(self, topic: str) -> None:
        """Refuse a topic that was not created (InputError), as the client would wait for it."""
        with translated(f"look up topic {topic}"):
            admin = KafkaAdminClient(**self._settings.options())
            try:
                partition_count(admin, topic)
            finally:
                admin.close()


def partition_count(admin: Any, topic: str) -> int:
    """Return the number of a topic's partitions.

    Raises:
        InputError: if the topic was not created.
    """
    (found,) = admin.describe_topics([topic])
    if found["error_code"] == kafka.UnknownTopicOrPartitionError.errno:
        raise InputError("topic", topic, "create it first")
    return len(found["partitions"])
