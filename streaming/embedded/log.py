"""An embedded log's folder: one folder a topic with one a partition in it, and one for the consumer groups."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec

from mechanism.errors import InputError
from mechanism.files import replace_file, sync_folder
from streaming.embedded.cleaning import compact, expire, trim
from streaming.embedded.consumer import EmbeddedConsumer
from streaming.embedded.files import FileLock
from streaming.embedded.groups import committed_offset, group_folder
from streaming.embedded.producer import EmbeddedProducer, now_ms
from streaming.embedded.segments import Appender, Entry
from streaming.log import OnAssigned, OnRevoked, Partition
from streaming.topics import Topic

SEGMENT_BYTES = 64 << 20
TOMBSTONES = timedelta(days=1)
"""How long a record without value stays in a compacted topic."""
LONGEST_SEGMENT = timedelta(days=1)
_TOPIC = "topic.json"
_IDENTITY = "identity"
_MILLISECOND = timedelta(milliseconds=1)


class EmbeddedLog:
    """Implements `streaming.log.EventLog`. `durable` False leaves it to the system when bytes reach the disk: safe
    against kills of any process, not against a power failure. Close it when its producers and consumers are closed."""

    def __init__(
        self,
        root: Path,
        *,
        durable: bool = True,
        segment_bytes: int = SEGMENT_BYTES,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self._root = root
        self._durable = durable
        self._segment_bytes = segment_bytes
        self._clock_ms = clock_ms
        self._topics: dict[str, Topic] = {}
        self._appenders: dict[Partition, Appender] = {}
        self._lock = threading.RLock()
        root.mkdir(parents=True, exist_ok=True)

    @property
    def is_local(self) -> bool:
        return True

    def create(self, topics: Iterable[Topic]) -> None:
        with self._lock, FileLock(self._root / "lock").holding():
            for topic in topics:
                self._create(topic)

    def identity(self) -> str:
        path = self._root / _IDENTITY
        with self._lock, FileLock(self._root / "lock").holding():
            if not path.exists():
                replace_file(path, uuid.uuid4().hex.encode(), durable=self._durable)
            return path.read_text("ascii")

    def producer(self) -> EmbeddedProducer:
        return EmbeddedProducer(lambda topic: self.topic(topic).partitions, self._append)

    def consumer(
        self,
        group: str,
        topics: Sequence[str],
        on_assigned: OnAssigned | None = None,
        on_revoked: OnRevoked | None = None,
    ) -> EmbeddedConsumer:
        partitions = {name: self.topic(name).partitions for name in topics}
        return EmbeddedConsumer(self._root, group, partitions, self.end, on_assigned, on_revoked, durable=self._durable)

    def topic(self, name: str) -> Topic:
        """The topic of a name. Raises InputError where it was not created."""
        topic = self._topics.get(name) or self._read_topic(name)
        if topic is None:
            raise InputError("topic", name, "create it first")
        self._topics[name] = topic
        return topic

    def maintain(self) -> None:
        """Removes what is no longer kept, on every topic. Done by itself whenever a segment is ended; call it every
        hour or so where little is written."""
        for path in sorted(self._root.glob(f"*/{_TOPIC}")):
            topic = self.topic(path.parent.name)
            for number in range(topic.partitions):
                self._clean(Partition(topic.name, number))

    def trim(self, partition: Partition, offset: int) -> int:
        """Removes the segments of a partition that hold nothing from `offset` on; how many."""
        with self._lock, self._appender(partition).lock.holding():
            return trim(self._folder(partition), offset)

    def end(self, partition: Partition) -> int:
        """The offset after the newest record of a partition."""
        with self._lock:
            return self._appender(partition).end()

    def committed(self, group: str, partition: Partition) -> int | None:
        """Where a group goes on reading, None where it never committed."""
        return committed_offset(group_folder(self._root, group), partition)

    def close(self) -> None:
        """Closes its files."""
        with self._lock:
            for appender in self._appenders.values():
                appender.close()
            self._appenders.clear()

    def _create(self, topic: Topic) -> None:
        there = self._read_topic(topic.name)
        if there is not None and there.partitions != topic.partitions:
            place = f"partitions of topic {topic.name}"
            raise InputError(place, topic.partitions, f"it is there with {there.partitions}: keep that number")
        if there is not None:
            return
        for number in range(topic.partitions):
            self._folder(Partition(topic.name, number)).mkdir(parents=True, exist_ok=True)
        if self._durable:
            sync_folder(self._root / topic.name)
        # Last, so that a topic which is known is whole.
        replace_file(self._root / topic.name / _TOPIC, msgspec.json.encode(topic), durable=self._durable)
        if self._durable:
            sync_folder(self._root)
        self._topics[topic.name] = topic

    def _read_topic(self, name: str) -> Topic | None:
        try:
            return msgspec.json.decode((self._root / Topic(name).name / _TOPIC).read_bytes(), type=Topic)
        except FileNotFoundError:
            return None

    def _folder(self, partition: Partition) -> Path:
        return self._root / partition.topic / str(partition.number)

    def _appender(self, partition: Partition) -> Appender:
        if partition not in self._appenders:
            folder = self._folder(partition)
            self._appenders[partition] = Appender(folder, durable=self._durable, segment_bytes=self._segment_bytes)
        return self._appenders[partition]

    def _append(self, partition: Partition, entries: list[Entry]) -> int:
        with self._lock:
            first, ended = self._appender(partition).append(entries, self._clock_ms())
            if ended:
                self._clean(partition)
            return first

    def _clean(self, partition: Partition) -> None:
        topic, folder, now = self.topic(partition.topic), self._folder(partition), self._clock_ms()
        longest = LONGEST_SEGMENT if topic.retention is None else min(LONGEST_SEGMENT, topic.retention / 4)
        with self._lock:
            appender = self._appender(partition)
            with appender.lock.holding():
                appender.end_segment(now - longest // _MILLISECOND)
                if topic.retention is not None:
                    expire(folder, now - topic.retention // _MILLISECOND)
                if topic.compacted:
                    compact(folder, now - TOMBSTONES // _MILLISECOND)
