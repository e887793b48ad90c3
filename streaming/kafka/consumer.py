"""The consumer of a log in Kafka: reads the partitions of one member.

The consumer assigns itself its partitions and seeks its offsets, and negotiates neither with a group coordinator. It
still commits offsets under the group's name, for tasks that store no offsets themselves and for tools that show lag.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from kafka import KafkaConsumer as Client
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from mechanism.errors import InputError
from streaming.kafka.errors import translated
from streaming.kafka.producer import RECORD_OVERHEAD
from streaming.kafka.settings import KafkaSettings
from streaming.log import LogUnavailable, Member, Partition, Record, from_ms, unowned, without_group
from streaming.topics import LARGEST_RECORD

WAIT_MS = 15_000


class KafkaLogConsumer:
    """Implements `streaming.log.Consumer`."""

    def __init__(self, settings: KafkaSettings, group: str, topics: Sequence[str], member: Member) -> None:
        self._group = group
        self._topics = tuple(topics)
        self._member = member
        self._owned: frozenset[Partition] = frozenset()
        options = settings.options() | {
            "group_id": group or None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "max_partition_fetch_bytes": LARGEST_RECORD + RECORD_OVERHEAD,
            "fetch_max_wait_ms": 100,
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        with translated("connect a consumer"):
            self._client = Client(**options)
        try:
            self.discover()
        except BaseException:
            self._client.close(autocommit=False)
            raise

    def discover(self) -> frozenset[Partition]:
        with translated("discover partitions"):
            self._client.topics()  # asks the brokers; the next line reads their cached answer
            counts = {topic: self._client.partitions_for_topic(topic) for topic in self._topics}
        if missing := [topic for topic, numbers in counts.items() if not numbers]:
            raise InputError("topic", missing[0], "create it first")
        found = {Partition(topic, n) for topic, ns in counts.items() for n in ns if self._member.owns(n)}
        new = frozenset(found - self._owned)
        if new:
            self._owned |= new
            # the client keeps its positions in the partitions that it already reads
            self._client.assign([TopicPartition(*p) for p in sorted(self._owned)])
        return new

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        if not self._owned:  # if there are more members than partitions
            time.sleep(timeout_s)
            return []
        with translated("poll"):
            found = self._client.poll(timeout_ms=round(timeout_s * 1000), max_records=most)
        return [
            Record(r.topic, r.partition, r.offset, from_ms(r.timestamp), r.key or b"", r.value, tuple(r.headers))
            for records in found.values()
            for r in records
        ]

    def assignment(self) -> frozenset[Partition]:
        return self._owned

    def position(self, partition: Partition) -> int:
        self._check(partition)
        with translated("position"):
            found = self._client.position(TopicPartition(*partition), timeout_ms=WAIT_MS)
        if found is None:
            raise LogUnavailable(f"position in {partition.topic} {partition.number}: no answer in time")
        return int(found)

    def seek(self, partition: Partition, offset: int) -> None:
        self._check(partition)
        self._client.seek(TopicPartition(*partition), offset)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        if not self._group:
            raise without_group()
        for partition in offsets:
            self._check(partition)
        committed = {TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
        with translated("commit"):
            self._client.commit(committed, timeout_ms=WAIT_MS)

    def committed(self, partition: Partition) -> int | None:
        if not self._group:
            return None
        with translated("committed"):
            found = self._client.committed(TopicPartition(*partition), timeout_ms=WAIT_MS)
        return None if found is None else int(found)

    def ends(self) -> dict[Partition, int]:
        with translated("ends"):
            found = self._client.end_offsets([TopicPartition(*p) for p in self._owned], timeout_ms=WAIT_MS)
        return {Partition(*partition): int(offset) for partition, offset in found.items()}

    def close(self) -> None:
        with translated("close"):
            self._client.close(autocommit=False, timeout_ms=10_000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self, partition: Partition) -> None:
        if partition not in self._owned:
            raise unowned(partition)
