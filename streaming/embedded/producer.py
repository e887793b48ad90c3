"""The producer of an embedded log: records that several threads append at a time share one transaction and one sync."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mechanism.errors import AuctionError
from streaming.embedded.database import LogDatabase
from streaming.embedded.tables import encode_headers, next_offset, table
from streaming.log import Appended, Headers, Partition
from streaming.topics import check_size, partition_of

MOST_WAITING_BYTES = 8 << 20
"""A producer with this many bytes queued writes them without waiting for `flush`."""
_Row = tuple[int, int, bytes, bytes | None, bytes | None]


@dataclass(slots=True)
class _Waiting:
    """A queued record; `appended` or `error` is set when its transaction has ended."""

    commits: GroupCommit
    topic: str
    key: bytes
    value: bytes | None
    headers: bytes | None
    appended: Appended | None = None
    error: AuctionError | None = None

    def result(self, timeout_s: float) -> Appended:
        if self.appended is None and self.error is None:
            self.commits.write()
        if self.error is not None:
            raise self.error
        assert self.appended is not None
        return self.appended


class GroupCommit:
    """The queue of records that wait for a transaction, shared by the producers of one log.

    One thread at a time writes all queued records. The other threads sleep until their records are written; then one of
    those whose records were queued during the write does the next write.
    """

    def __init__(self, database: LogDatabase, clock_ms: Callable[[], int]) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._writing = False
        self._added = self._ended = 0

    def add(self, waiting: _Waiting) -> None:
        """Queue a record."""
        with self._changed:
            self._waiting.append(waiting)
            self._added += 1

    def write(self) -> None:
        """Wait until each record that was queued before this call is durable or has its error."""
        with self._changed:
            target = self._added
            while self._writing and self._ended < target:
                self._changed.wait()
            if self._ended >= target:
                return
            self._writing = True
            batch, self._waiting = self._waiting, []
        try:
            self._write(batch)
        finally:
            with self._changed:
                self._writing = False
                self._ended += len(batch)
                self._changed.notify_all()

    def _write(self, batch: Sequence[_Waiting]) -> None:
        try:
            with self._database.transaction() as connection:
                places = self._insert(connection, batch)
        except AuctionError as error:
            for waiting in batch:
                waiting.error = error
            return
        for waiting, place in zip(batch, places, strict=True):
            waiting.appended = place

    def _insert(self, connection: sqlite3.Connection, batch: Sequence[_Waiting]) -> list[Appended]:
        # Read within the transaction, as partitions may have been added to a topic.
        counts = dict(connection.execute("SELECT name, partitions FROM topics"))
        timestamp = self._clock_ms()
        rows: defaultdict[Partition, list[_Row]] = defaultdict(list)
        ends: dict[Partition, int] = {}
        places = []
        for waiting in batch:
            partition = Partition(waiting.topic, partition_of(waiting.key, counts[waiting.topic]))
            if partition not in ends:
                ends[partition] = next_offset(connection, partition)
            rows[partition].append((ends[partition], timestamp, waiting.key, waiting.value, waiting.headers))
            places.append(Appended(*partition, ends[partition]))
            ends[partition] += 1
        for partition, own in rows.items():
            connection.executemany(f"INSERT INTO {table(partition)} VALUES (?, ?, ?, ?, ?)", own)
            moved = "UPDATE ends SET next_offset = ? WHERE (topic, partition) = (?, ?)"
            connection.execute(moved, (ends[partition], *partition))
        return places


class EmbeddedProducer:
    """Implements `streaming.log.LogProducer`. `check_topic` raises InputError for a topic that was not created."""

    def __init__(self, commits: GroupCommit, check_topic: Callable[[str], object]) -> None:
        self._commits = commits
        self._check_topic = check_topic
        self._known: set[str] = set()
        self._lock = threading.Lock()
        self._unflushed: list[_Waiting] = []
        self._bytes = 0

    def append(self, topic: str, key: bytes, value: bytes | None, headers: Headers = ()) -> _Waiting:
        size = check_size(topic, key, value, headers)
        if topic not in self._known:
            self._check_topic(topic)
            self._known.add(topic)
        waiting = _Waiting(self._commits, topic, key, value, encode_headers(headers))
        with self._lock:
            self._commits.add(waiting)
            self._unflushed.append(waiting)
            self._bytes += size
            full = self._bytes >= MOST_WAITING_BYTES
        if full:
            self._commits.write()
            with self._lock:  # failed records are kept, so that `flush` raises their errors
                self._unflushed = [kept for kept in self._unflushed if kept.appended is None]
                self._bytes = 0
        return waiting

    def flush(self, timeout_s: float) -> None:
        with self._lock:
            unflushed, self._unflushed, self._bytes = self._unflushed, [], 0
        self._commits.write()
        for waiting in unflushed:
            waiting.result(timeout_s)

    def close(self) -> None:
        self._commits.write()
