"""The lake worker: writes every event as one row of its table, exactly once.

The tables hold the worker's offsets, in the same commits as the rows; the offsets that the group commits only serve
tools that show lag. The worker joins no events and has no other state, so a restart takes the time to open three
tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mechanism.errors import ConfigError
from streaming.lake.erasures import NO_REQUESTS, Requests, read_requests
from streaming.lake.schema import STORED, Stored, without_reader
from streaming.lake.store import Lake, LakeDamaged, LakeUnavailable
from streaming.lake.table import LakeTable, Mark
from streaming.log import EventLog, Partition
from streaming.workers.task import Batch, WorkerStopped

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LakeSettings:
    """Settings of the lake worker.

    commit_s       seconds between two commits of a table, while there are rows
    commit_rows    pending rows after which a table is committed earlier
    quiet_s        seconds after which the watermark is committed without rows
    disorder_s     seconds by which the watermark of an idle log is behind the clock
    requests_s     seconds between two reads of the requests to erase
    """

    commit_s: float = 1.0
    commit_rows: int = 5_000
    quiet_s: float = 10.0
    disorder_s: float = 10.0
    requests_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("commit_s", "commit_rows", "quiet_s", "disorder_s", "requests_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"lake.{name}", getattr(self, name), "give 0 or more")


class LakeMetrics:
    """Prometheus metrics of the lake worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_lake_"
        self.rows = Counter(prefix + "rows", "Rows committed.", ("table",), registry=registry)
        self.commits = Histogram(prefix + "commit_seconds", "Time of a commit.", ("table",), registry=registry)
        self.held_back = Counter(
            prefix + "held_back_readers", "Rows stored without the reader's part, on request.", registry=registry
        )
        self.watermark = Gauge(
            prefix + "watermark_seconds",
            "Time up to which a partition is in.",
            ("table", "partition"),
            registry=registry,
        )


@dataclass(slots=True)
class _Owned:
    """A partition that this worker owns. `next_offset` includes the pending rows."""

    next_offset: int = 0
    watermark: datetime | None = None
    reached: datetime | None = None
    """When the newest record was appended to the log."""


class _Writing:
    """A table, its owned partitions and its pending rows."""

    def __init__(self, table: LakeTable) -> None:
        self.table = table
        self.owned: dict[int, _Owned] = {}
        self.rows: list[Stored] = []
        self.moved: set[int] = set()
        self.committed_at = time.monotonic()


class LakeTask:
    """Implements `streaming.workers.task.Task`. `url` is the lake's folder, or s3://bucket/prefix."""

    name = "lake"
    topics = STORED
    transient: tuple[type[Exception], ...] = (LakeUnavailable,)

    def __init__(
        self,
        events: EventLog,
        url: str,
        settings: LakeSettings | None = None,
        *,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._events = events
        self._lake = Lake(url)
        self._settings = settings or LakeSettings()
        self._clock = clock
        self.metrics = LakeMetrics(registry or CollectorRegistry())
        self._identity = ""
        self._writing: dict[str, _Writing] = {}
        self._requests: Requests = NO_REQUESTS
        self._requests_at = 0.0

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the offsets stored in the tables, and drop pending rows: they are read from the log again.

        A damaged table stops the worker (WorkerStopped).
        """
        try:
            return self._assigned(partitions)
        except LakeDamaged as error:
            raise self._stopped(error) from error

    def _assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        if not self._writing or any(p.number in self._writing[p.topic].owned for p in partitions):
            # the first start, or a restart after a failure, which may have left stale handles
            self._identity = self._events.identity()
            self._writing = {name: _Writing(LakeTable(self._lake, name, self._identity)) for name in self.topics}
        found: dict[Partition, int] = {}
        for name, writing in self._writing.items():
            numbers = [partition.number for partition in partitions if partition.topic == name]
            offsets = writing.table.own(numbers)
            for number in numbers:
                # without an offset in the table: the oldest record, regardless of the group's committed offset
                writing.owned[number] = _Owned(offsets.get(number, 0))
                found[Partition(name, number)] = writing.owned[number].next_offset
        self._requests_at = 0.0
        return found

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Collect the rows of a batch, and commit the tables that are due.

        A damaged table stops the worker (WorkerStopped).
        """
        try:
            return self._process(batch)
        except LakeDamaged as error:
            raise self._stopped(error) from error

    def finish(self) -> Mapping[Partition, int]:
        done: dict[Partition, int] = {}
        for name, writing in self._writing.items():
            if writing.moved:
                done |= self._commit(name, writing)
        return done

    def _process(self, batch: Batch) -> Mapping[Partition, int]:
        now = time.monotonic()
        if now >= self._requests_at:
            self._requests = read_requests(self._lake)
            self._requests_at = now + self._settings.requests_s
        for record, event in batch.arrivals:
            writing = self._writing[record.topic]
            owned = writing.owned[record.partition]
            if record.offset < owned.next_offset:
                continue
            row = Stored(event, record.value, record.timestamp, self._identity, record.partition, record.offset)
            if self._requests.cover(event):
                row = without_reader(row)
                self.metrics.held_back.inc()
            writing.rows.append(row)
            owned.reached = record.timestamp
        for partition, offset in batch.after.items():
            writing = self._writing[partition.topic]
            owned = writing.owned[partition.number]
            if offset > owned.next_offset:
                owned.next_offset = offset
                writing.moved.add(partition.number)
        quiet = self._clock() - timedelta(seconds=self._settings.disorder_s)
        done: dict[Partition, int] = {}
        for name, writing in self._writing.items():
            for number, owned in writing.owned.items():
                at_end = Partition(name, number) not in batch.behind
                owned.watermark = _later(owned.watermark, quiet if at_end else owned.reached)
            if self._due(writing, now):
                done |= self._commit(name, writing)
        return done

    def _due(self, writing: _Writing, now: float) -> bool:
        if not writing.owned:
            return False
        since = now - writing.committed_at
        waits = self._settings.commit_s if writing.moved else self._settings.quiet_s
        return len(writing.rows) >= self._settings.commit_rows or since >= waits

    def _commit(self, name: str, writing: _Writing) -> dict[Partition, int]:
        marks = {number: Mark(owned.next_offset, owned.watermark) for number, owned in writing.owned.items()}
        began = time.monotonic()
        writing.table.append(writing.rows, marks)
        writing.committed_at = time.monotonic()
        self.metrics.rows.labels(name).inc(len(writing.rows))
        self.metrics.commits.labels(name).observe(writing.committed_at - began)
        for number, mark in marks.items():
            if mark.watermark is not None:
                self.metrics.watermark.labels(name, number).set(mark.watermark.timestamp())
        done = {Partition(name, number): writing.owned[number].next_offset for number in writing.moved}
        writing.rows, writing.moved = [], set()
        return done

    def _stopped(self, error: LakeDamaged) -> WorkerStopped:
        # the events were checked when they were decoded, so no record is at fault
        return WorkerStopped(f"worker {self.name}: {error}")


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    known = [moment for moment in (one, other) if moment is not None]
    return max(known, default=None)
