"""Appends to an embedded log: records wait for each other, and a flush writes each partition's with one sync."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mechanism.errors import AuctionError
from streaming.embedded.segments import Entry
from streaming.log import Appended, Headers, Partition
from streaming.topics import check_size, partition_of

MOST_WAITING_BYTES = 8 << 20

Write = Callable[[Partition, list[Entry]], int]
"""Appends a batch to a partition; the offset of its first record."""


@dataclass(slots=True)
class _Waiting:
    partition: Partition
    entry: Entry
    producer: EmbeddedProducer
    offset: int = -1
    error: AuctionError | None = None

    def result(self, timeout_s: float) -> Appended:
        if self.offset < 0 and self.error is None:
            self.producer.write()
        if self.error is not None:
            raise self.error
        return Appended(*self.partition, self.offset)


class EmbeddedProducer:
    """Implements `streaming.log.LogProducer`. `partitions` gives the number of partitions of a topic."""

    def __init__(self, partitions: Callable[[str], int], write: Write) -> None:
        self._partitions = partitions
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._bytes = 0
        self._failed: AuctionError | None = None

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> _Waiting:
        size = check_size(topic, key, value, headers)
        partition = Partition(topic, partition_of(key, self._partitions(topic)))
        waiting = _Waiting(partition, (key, value, headers), self)
        with self._lock:
            self._waiting.append(waiting)
            self._bytes += size
            full = self._bytes >= MOST_WAITING_BYTES
        if full:
            self.write()
        return waiting

    def flush(self, timeout_s: float) -> None:
        self.write()
        with self._lock:
            failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self) -> None:
        self.write()

    def write(self) -> None:
        """Writes what waits; who asks for its acknowledgement hears of a failure, and so does `flush`."""
        with self._lock:
            batches: dict[Partition, list[_Waiting]] = {}
            for waiting in self._waiting:
                batches.setdefault(waiting.partition, []).append(waiting)
            self._waiting, self._bytes = [], 0
            for partition, batch in batches.items():
                try:
                    first = self._write(partition, [waiting.entry for waiting in batch])
                except AuctionError as error:
                    self._failed = error
                    for waiting in batch:
                        waiting.error = error
                    continue
                for i, waiting in enumerate(batch):
                    waiting.offset = first + i


def now_ms() -> int:
    """The time that a record gets when it is appended."""
    return time.time_ns() // 1_000_000
