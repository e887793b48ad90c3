"""Kafka as an event log: its topics, and their producers and consumers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka

from streaming.kafka.consumer import KafkaLogConsumer
from streaming.kafka.errors import translated
from streaming.kafka.producer import RECORD_OVERHEAD, KafkaLogProducer, partition_count
from streaming.kafka.settings import KafkaSettings
from streaming.log import ALONE, Member
from streaming.topics import LARGEST_RECORD, Topic

# At DEBUG the client logs keys and values, which may be personal.
logging.getLogger("kafka").setLevel(max(logging.INFO, logging.getLogger().level))
COPIES = 3
"""Copies of each new topic, unless there are fewer brokers or the settings give another number."""
_MILLISECOND = timedelta(milliseconds=1)


class KafkaLog:
    """Implements `streaming.log.EventLog`."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    @property
    def is_local(self) -> bool:
        return False

    def create(self, topics: Iterable[Topic]) -> None:
        wanted = {topic.name: topic for topic in topics}
        with translated("create topics"):
            admin = KafkaAdminClient(**self._settings.options())
            try:
                self._create(admin, wanted)
            finally:
                admin.close()

    def identity(self) -> str:
        with translated("ask for the cluster"):
            admin = KafkaAdminClient(**self._settings.options())
            try:
                return str(admin.describe_cluster()["cluster_id"])
            finally:
                admin.close()

    def producer(self) -> KafkaLogProducer:
        return KafkaLogProducer(self._settings)

    def consumer(self, group: str, topics: Sequence[str], member: Member = ALONE) -> KafkaLogConsumer:
        return KafkaLogConsumer(self._settings, group, topics, member)

    def maintain(self) -> None:
        return None  # the brokers apply the topics' retention

    def close(self) -> None:
        return None  # each producer and consumer has its own connections

    def _create(self, admin: Any, wanted: dict[str, Topic]) -> None:
        existing = set(admin.list_topics())
        if new := wanted.keys() - existing:
            copies = self._settings.replication or min(COPIES, len(admin.describe_cluster()["brokers"]))
            described = {
                name: {
                    "num_partitions": wanted[name].partitions,
                    "replication_factor": copies,
                    "configs": _configs(wanted[name], copies),
                }
                for name in new
            }
            with suppress(kafka.TopicAlreadyExistsError):  # another process was faster
                admin.create_topics(described, timeout_ms=15_000, wait_for_metadata=True)
        for name in wanted.keys() & existing:
            if partition_count(admin, name) < wanted[name].partitions:
                with suppress(kafka.InvalidPartitionsError):  # another process was faster
                    admin.create_partitions({name: wanted[name].partitions}, timeout_ms=15_000)


def _configs(topic: Topic, copies: int) -> dict[str, str]:
    configs = {
        "cleanup.policy": "delete",
        "max.message.bytes": str(LARGEST_RECORD + RECORD_OVERHEAD),
        "retention.ms": "-1" if topic.retention is None else str(topic.retention // _MILLISECOND),
    }
    if copies >= COPIES:
        # An acknowledged record is on two brokers, and appends still work after the loss of one.
        configs["min.insync.replicas"] = "2"
    if topic.retention is not None:
        # Kafka deletes whole segments, so a segment that spans a long time keeps records past their retention.
        configs["segment.ms"] = str(min(timedelta(days=1), topic.retention / 4) // _MILLISECOND)
    return configs
