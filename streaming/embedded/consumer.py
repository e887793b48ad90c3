"""The consumer of an embedded log: reads the partitions of one member."""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from streaming.embedded.database import LogDatabase, translated
from streaming.embedded.tables import decode_headers, next_offset, partition_count, table
from streaming.log import Member, Partition, Record, from_ms, unowned, without_group

PAUSES_S = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Pauses between two reads that find no records; the last one repeats."""
MOST_BYTES = 8 << 20
"""Bytes after which a poll reads no further record."""


class EmbeddedConsumer:
    """Implements `streaming.log.Consumer`."""

    def __init__(self, database: LogDatabase, group: str, topics: Sequence[str], member: Member) -> None:
        self._database = database
        self._group = group
        self._topics = tuple(topics)
        self._member = member
        self._connection = database.reader()
        weakref.finalize(self, self._connection.close)
        self._closed = False
        self._positions: dict[Partition, int] = {}
        self._turn = 0
        self._seen: int | None = None
        self.discover()

    def discover(self) -> frozenset[Partition]:
        with translated(self._database.path):
            counts = {topic: partition_count(self._connection, topic) for topic in self._topics}
        owned = {Partition(topic, n) for topic, count in counts.items() for n in range(count) if self._member.owns(n)}
        new = frozenset(owned - self._positions.keys())
        for partition in sorted(new):
            self._positions[partition] = self.committed(partition) or 0
        self._seen = None
        return new

    def poll(self, timeout_s: float, most: int = 500) -> list[Record]:
        deadline = time.monotonic() + timeout_s
        pauses = iter(PAUSES_S)
        pause = 0.0
        while True:
            with translated(self._database.path):
                records = self._read(most)
            left = deadline - time.monotonic()
            if records or left <= 0:
                return records
            pause = next(pauses, pause)
            time.sleep(min(pause, left))

    def assignment(self) -> frozenset[Partition]:
        return frozenset(self._positions)

    def position(self, partition: Partition) -> int:
        self._check(partition)
        return self._positions[partition]

    def seek(self, partition: Partition, offset: int) -> None:
        self._check(partition)
        self._positions[partition] = offset
        self._seen = None

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        if not self._group:
            raise without_group()
        for partition in offsets:
            self._check(partition)
        rows = [(self._group, *partition, offset) for partition, offset in offsets.items()]
        with self._database.transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)", rows)

    def committed(self, partition: Partition) -> int | None:
        found = "SELECT next_offset FROM offsets WHERE (consumer_group, topic, partition) = (?, ?, ?)"
        with translated(self._database.path):
            row = self._connection.execute(found, (self._group, *partition)).fetchone()
        return None if row is None else int(row[0])

    def ends(self) -> dict[Partition, int]:
        with translated(self._database.path):
            return {partition: next_offset(self._connection, partition) for partition in self._positions}

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._database.close_reader(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self, partition: Partition) -> None:
        if partition not in self._positions:
            raise unowned(partition)

    def _read(self, most: int) -> list[Record]:
        """Read from the partitions in turn, so that a long one does not starve the others."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._seen:
            return []  # nothing was written since the last read, which found nothing
        records: list[Record] = []
        size = 0
        partitions = list(self._positions)
        for i in range(len(partitions)):
            partition = partitions[(self._turn + i) % len(partitions)]
            for record in self._records(partition, most - len(records)):
                records.append(record)
                self._positions[partition] = record.offset + 1
                size += len(record.value or b"")
                if size >= MOST_BYTES:
                    break
            if len(records) >= most or size >= MOST_BYTES:
                break
        self._turn += 1
        self._seen = None if records else version
        return records

    def _records(self, partition: Partition, most: int) -> Iterator[Record]:
        columns = "offset, timestamp, key, value, headers"
        found = f"SELECT {columns} FROM {table(partition)} WHERE offset >= ? ORDER BY offset LIMIT ?"
        cursor: sqlite3.Cursor = self._connection.execute(found, (self._positions[partition], most))
        try:
            for offset, timestamp, key, value, headers in cursor:
                yield Record(*partition, offset, from_ms(timestamp), key, value, decode_headers(headers))
        finally:
            cursor.close()  # ends the read, which would keep the WAL from being reused
