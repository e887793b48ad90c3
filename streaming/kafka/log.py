"""Kafka as an event log: its topics, and who writes and reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from kafka import KafkaAdminClient
from kafka import errors as kafka

from mechanism.errors import InputError
from streaming.kafka.consumer import KafkaLogConsumer
from streaming.kafka.errors import translated
from streaming.kafka.producer import ROOM, KafkaLogProducer, partition_count
from streaming.kafka.settings import KafkaSettings
from streaming.log import OnAssigned, OnRevoked
from streaming.topics import LARGEST_RECORD, Topic

# At DEBUG the client writes keys and values, and those are personal.
logging.getLogger("kafka").setLevel(max(logging.INFO, logging.getLogger().level))
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

    def consumer(
        self,
        group: str,
        topics: Sequence[str],
        on_assigned: OnAssigned | None = None,
        on_revoked: OnRevoked | None = None,
    ) -> KafkaLogConsumer:
        return KafkaLogConsumer(self._settings, group, topics, on_assigned, on_revoked)

    def maintain(self) -> None:
        return None  # the brokers apply the topics' retention

    def close(self) -> None:
        return None  # each producer and consumer has its own connections

    def _create(self, admin: Any, wanted: dict[str, Topic]) -> None:
        there = set(admin.list_topics())
        new = {
            name: {
                "num_partitions": topic.partitions,
                "replication_factor": self._settings.replication,
                "configs": _configs(topic),
            }
            for name, topic in wanted.items()
            if name not in there
        }
        if new:
            # Perhaps by somebody else meanwhile: its partitions are looked at below.
            with suppress(kafka.TopicAlreadyExistsError):
                admin.create_topics(new, timeout_ms=15_000, wait_for_metadata=True)
        for topic in wanted.values():
            found = partition_count(admin, topic.name)
            if found != topic.partitions:
                place = f"partitions of topic {topic.name}"
                raise InputError(place, topic.partitions, f"it is there with {found}: keep that number")


def _configs(topic: Topic) -> dict[str, str]:
    configs = {
        "cleanup.policy": "compact" if topic.compacted else "delete",
        "max.message.bytes": str(LARGEST_RECORD + ROOM),
        "retention.ms": "-1" if topic.retention is None else str(topic.retention // _MILLISECOND),
    }
    if topic.retention is not None:
        # A segment goes as a whole: one that is written for too long would hold records past their time.
        configs["segment.ms"] = str(min(timedelta(days=1), topic.retention / 4) // _MILLISECOND)
    return configs
