"""A member of a Kafka consumer group, or a reader without one. Offsets are committed by hand alone.

Partitions are handed out by range, so that the same number of each topic goes to the same member; before a rebalance
every member gives back what it has, commits what its callback says, and gets its new share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from kafka import KafkaConsumer as Client
from kafka import TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import OffsetAndMetadata

from mechanism.errors import InputError
from streaming.kafka.client_mends import Joining, free_slot
from streaming.kafka.errors import translated
from streaming.kafka.producer import ROOM
from streaming.kafka.settings import KafkaSettings
from streaming.log import OnAssigned, OnRevoked, Partition, Record, fenced, from_ms
from streaming.topics import LARGEST_RECORD

POLL_INTERVAL_MS = 300_000


class KafkaLogConsumer:
    """Implements `streaming.log.Consumer`."""

    def __init__(
        self,
        settings: KafkaSettings,
        group: str,
        topics: Sequence[str],
        on_assigned: OnAssigned | None,
        on_revoked: OnRevoked | None,
    ) -> None:
        self._grouped = bool(group)
        self._fault: Exception | None = None
        self._kept: set[Any] = set()
        options = settings.options() | {
            "group_id": group or None,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "partition_assignment_strategy": (RangePartitionAssignor,),
            "session_timeout_ms": round(settings.session_s * 1000),
            "heartbeat_interval_ms": min(3_000, round(settings.session_s * 100)),
            "max_poll_interval_ms": POLL_INTERVAL_MS,
            "max_partition_fetch_bytes": LARGEST_RECORD + ROOM,
            "fetch_max_wait_ms": 100,
            "isolation_level": "read_committed",
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        with translated("connect a consumer"):
            self._client = Client(**options)
            counts = {topic: self._client.partitions_for_topic(topic) for topic in topics}
        if missing := [topic for topic, partitions in counts.items() if not partitions]:
            self._client.close()
            raise InputError("topic", missing[0], "create it first")
        if self._grouped:
            self._joining = Joining(self._client._coordinator)
            self._client.subscribe(list(topics), listener=_Listener(self, self._client, on_assigned, on_revoked))
        else:
            every = [TopicPartition(topic, n) for topic in topics for n in sorted(counts[topic])]
            self._client.assign(every)
            self._client.seek_to_beginning(*every)
            started = on_assigned(_ours(every)) if on_assigned else None
            for partition, offset in (started or {}).items():
                self.seek(partition, offset)

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        if self._grouped:
            self._joining.resume()
        free_slot(self._client._fetcher)
        with translated("poll"):
            found = self._client.poll(timeout_ms=round(timeout_s * 1000), max_records=most)
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault
        if self._kept:
            for partition in self._go_back():
                found.pop(partition, None)
        return [
            Record(r.topic, r.partition, r.offset, from_ms(r.timestamp), r.key or b"", r.value, tuple(r.headers))
            for records in found.values()
            for r in records
        ]

    def assignment(self) -> frozenset[Partition]:
        return frozenset(_ours(self._client.assignment()))

    def position(self, partition: Partition) -> int:
        self._check(partition)
        with translated("position"):
            return int(self._client.position(TopicPartition(*partition), timeout_ms=10_000) or 0)

    def seek(self, partition: Partition, offset: int) -> None:
        self._check(partition)
        self._client.seek(TopicPartition(*partition), offset)

    def pause(self, partitions: AbstractSet[Partition]) -> None:
        wanted = {TopicPartition(*p) for p in partitions} & set(self._client.assignment())
        paused = set(self._client.paused())
        if fresh := wanted - paused:
            self._client.pause(*fresh)
        if over := paused - wanted:
            self._client.resume(*over)

    def commit(self, offsets: Mapping[Partition, int] | None = None) -> None:
        if not self._grouped:
            raise InputError("group", "", "a consumer without a group has nowhere to commit: give it one")
        if offsets is not None and (foreign := sorted(set(offsets) - self.assignment())):
            raise fenced(foreign[0])
        with translated("commit"):
            self._client.commit(None if offsets is None else _theirs(offsets), timeout_ms=15_000)

    def committed(self, partition: Partition) -> int | None:
        if not self._grouped:
            return None
        with translated("committed"):
            found = self._client.committed(TopicPartition(*partition), timeout_ms=15_000)
        return None if found is None else int(found)

    def ends(self) -> dict[Partition, int]:
        with translated("ends"):
            found = self._client.end_offsets(list(self._client.assignment()), timeout_ms=15_000)
        return {Partition(*partition): int(offset) for partition, offset in found.items()}

    def close(self) -> None:
        with translated("close"):
            self._client.close(autocommit=False, timeout_ms=10_000)
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def keep(self, partitions: Iterable[Any]) -> None:
        """Partitions that came back to this member in a rebalance: the client goes on where it was, but what it read
        since the last commit was given up with them."""
        self._kept.update(partitions)

    def _go_back(self) -> set[Any]:
        """Sets those to what was committed."""
        kept, self._kept = self._kept & set(self._client.assignment()), set()
        with translated("go back to what was committed"):
            for partition in kept:
                committed = self._client.committed(partition, timeout_ms=15_000)
                if committed is None:
                    self._client.seek_to_beginning(partition)
                else:
                    self._client.seek(partition, committed)
        return kept

    def fail(self, error: Exception) -> None:
        """Keeps what a callback raised, for the next `poll` or `close` to raise."""
        self._fault = error

    def _check(self, partition: Partition) -> None:
        if TopicPartition(*partition) not in self._client.assignment():
            raise InputError("partition", tuple(partition), "poll until it is assigned to this consumer")


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Called on the client's own loop, where nothing may wait but by `await`."""

    def __init__(
        self, consumer: KafkaLogConsumer, client: Any, on_assigned: OnAssigned | None, on_revoked: OnRevoked | None
    ) -> None:
        self._consumer = consumer
        self._client = client
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._had: set[Any] = set()

    async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self._had.update(revoked)
        offsets = self._told(self._on_revoked, revoked)
        if offsets:
            # A commit that comes too late is no harm: the next owner reads again what was committed before.
            with suppress(Exception):
                await self._client.commit_async(_theirs(offsets))

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        given = _theirs(self._told(self._on_assigned, assigned) or {})
        for partition, offset in given.items():
            self._client.seek(partition, offset.offset)
        self._consumer.keep((self._had & set(assigned)) - set(given))

    async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self._had.update(lost)
        self._told(self._on_revoked, lost)

    def _told(
        self, callback: OnAssigned | OnRevoked | None, partitions: Iterable[Any]
    ) -> Mapping[Partition, int] | None:
        own = _ours(partitions)
        if callback is None or not own:
            return None
        try:
            return callback(own)
        except Exception as error:
            self._consumer.fail(error)
            return None


def _ours(partitions: Iterable[Any]) -> list[Partition]:
    return sorted(Partition(p.topic, p.partition) for p in partitions)


def _theirs(offsets: Mapping[Partition, int]) -> dict[Any, Any]:
    return {TopicPartition(*p): OffsetAndMetadata(offset, "", -1) for p, offset in offsets.items()}
