"""The embedded log: its topics, their retention, and its producers and consumers.

Each partition is a table of the log's SQLite file, with the offset as the primary key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from streaming.embedded.consumer import EmbeddedConsumer
from streaming.embedded.database import LogDatabase
from streaming.embedded.producer import EmbeddedProducer, GroupCommit
from streaming.embedded.tables import create, next_offset, partition_count, table
from streaming.log import ALONE, Member, Partition
from streaming.topics import Topic

REMOVED_AT_ONCE = 2_000
"""Largest number of records that `maintain` removes in one transaction, so that no append waits long."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970, the timestamp of a record that is appended now."""
    return time.time_ns() // 1_000_000


class EmbeddedLog:
    """Implements `streaming.log.EventLog` in a folder.

    If `durable` is False, the system decides when bytes reach the disk: records survive a kill of any process, but not
    a power failure. Close the log after its producers and consumers.
    """

    def __init__(self, root: Path, *, durable: bool = True, clock_ms: Callable[[], int] = now_ms) -> None:
        self._database = LogDatabase(root, durable=durable)
        self._clock_ms = clock_ms
        self._commits = GroupCommit(self._database, clock_ms)

    @property
    def is_local(self) -> bool:
        return True

    def create(self, topics: Iterable[Topic]) -> None:
        with self._database.transaction() as connection:
            for topic in topics:
                create(connection, topic)

    def identity(self) -> str:
        with self._database.reading() as connection:
            (identity,) = connection.execute("SELECT identity FROM log").fetchone()
        return str(identity)

    def producer(self) -> EmbeddedProducer:
        return EmbeddedProducer(self._commits, self.partitions)

    def consumer(self, group: str, topics: Sequence[str], member: Member = ALONE) -> EmbeddedConsumer:
        return EmbeddedConsumer(self._database, group, topics, member)

    def partitions(self, topic: str) -> int:
        """Return the number of a topic's partitions; InputError propagates if the topic was not created."""
        with self._database.reading() as connection:
            return partition_count(connection, topic)

    def start(self, partition: Partition) -> int:
        """Return the offset of the oldest record of a partition; the end of the partition if it is empty."""
        with self._database.reading() as connection:
            oldest = connection.execute(f"SELECT min(offset) FROM {table(partition)}").fetchone()[0]
            return next_offset(connection, partition) if oldest is None else int(oldest)

    def end(self, partition: Partition) -> int:
        """Return the offset after the newest record of a partition."""
        with self._database.reading() as connection:
            return next_offset(connection, partition)

    def trim(self, partition: Partition, offset: int) -> None:
        """Remove the records of a partition before an offset."""
        with self._database.transaction() as connection:
            connection.execute(f"DELETE FROM {table(partition)} WHERE offset < ?", (offset,))
        self._database.give_space_back()

    def maintain(self) -> None:
        """Remove records past their retention, and overwrite their bytes."""
        now = self._clock_ms()
        with self._database.reading() as connection:
            expiring = "SELECT name, partitions, retention_ms FROM topics WHERE retention_ms IS NOT NULL"
            topics = connection.execute(expiring).fetchall()
        for name, partitions, retention_ms in topics:
            for number in range(partitions):
                self._remove_before(table(Partition(name, number)), now - retention_ms)
        self._database.checkpoint()

    def close(self) -> None:
        self._database.close()

    def _remove_before(self, where: str, timestamp: int) -> None:
        # Timestamps rise with offsets, so only expired records are read.
        kept = f"SELECT offset FROM {where} WHERE timestamp >= ? ORDER BY offset LIMIT 1"
        expired = f"SELECT offset FROM {where} WHERE offset < coalesce(({kept}), {1 << 62}) LIMIT {REMOVED_AT_ONCE}"
        removed = REMOVED_AT_ONCE
        while removed == REMOVED_AT_ONCE:
            with self._database.transaction() as connection:
                removed = connection.execute(f"DELETE FROM {where} WHERE offset IN ({expired})", (timestamp,)).rowcount
            self._database.give_space_back()
