"""The feedback worker: interactions and judgements become rows of the shards, each judged interaction once.

Where it goes on reading stands in the shards' manifests, together with the rows; what the group commits is for display.
It is also the one that carries out requests to erase a user's data in the shards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from mechanism.errors import ConfigError, InputError
from streaming.events import Interaction, Judgement
from streaming.log import Partition
from streaming.shards.erasures import Erasure, requests
from streaming.shards.manifest import Totals
from streaming.shards.store import ShardStore
from streaming.shards.writer import PartitionWriter
from streaming.topics import INTERACTIONS, JUDGEMENTS
from streaming.workers.pairing import Pairing
from streaming.workers.task import Batch, WorkerStopped

log = structlog.get_logger(__name__)

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class FeedbackSettings:
    """Times in seconds. Rows are written after `flush_s`, or when there are `flush_rows`; the watermark alone every
    `quiet_s`. It is `disorder_s` behind the clock where nothing happens. Erasures and merges are looked for every
    `tidy_s`. Reading interactions pauses while `waiting` of them have no judgement. The newest rows of a partition are
    kept in memory for amendments, up to `remembered_mb`; older ones are looked up in the shards."""

    flush_s: float = 1.0
    flush_rows: int = 20_000
    quiet_s: float = 10.0
    disorder_s: float = 10.0
    tidy_s: float = 60.0
    waiting: int = 200_000
    remembered_mb: float = 16.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if getattr(self, name) < 0:
                raise ConfigError(f"feedback.{name}", getattr(self, name), "give 0 or more")


class FeedbackMetrics:
    """What the shards grow by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "llm_auction_feedback_"
        self.judgements = Counter(prefix + "judgements", "Judgements by outcome.", ("outcome",), registry=registry)
        self.clicks = Counter(prefix + "clicks", "Clicked ads in new rows.", registry=registry)
        self.shards = Counter(prefix + "manifests", "Manifests written.", registry=registry)
        self.erased = Counter(prefix + "erased_rows", "Rows that lost their reader's part.", registry=registry)
        self.waiting = Gauge(prefix + "waiting", "Interactions without a judgement.", registry=registry)
        self.watermark = Gauge(
            prefix + "watermark_seconds", "Event time up to which all is in.", ("partition",), registry=registry
        )

    def added(self, totals: Totals) -> None:
        """New rows are in the shards."""
        for outcome in ("rows", "repeated", "orphans"):
            self.judgements.labels(outcome).inc(getattr(totals, outcome))
        self.clicks.inc(max(0, totals.clicks))


class _Part:
    """One partition that is ours in both topics."""

    def __init__(self, store: ShardStore, number: int, remembered: int) -> None:
        self.writer = PartitionWriter(store, number)
        manifest = self.writer.manifest
        until = max((shard.last for shard in manifest.shards), default=None)
        self.pairing = Pairing(manifest.progress, until, self.writer.find, remembered)
        self.written_at = time.monotonic()

    def offsets(self, number: int) -> dict[Partition, int]:
        """Where reading goes on after the newest manifest."""
        progress = self.writer.manifest.progress
        return {Partition(INTERACTIONS, number): progress.start, Partition(JUDGEMENTS, number): progress.judgements}


class FeedbackTask:
    """Implements `streaming.workers.task.Task`. `url` is where the shards are: a folder, or what fsspec knows."""

    name = "feedback"
    topics = (INTERACTIONS, JUDGEMENTS)
    transient: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        url: str,
        settings: FeedbackSettings | None = None,
        *,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = ShardStore(url)
        self._settings = settings or FeedbackSettings()
        self._clock = clock
        self.metrics = FeedbackMetrics(registry or CollectorRegistry())
        self._owned: set[Partition] = set()
        self._parts: dict[int, _Part] = {}
        self._erasures: dict[str, Erasure] = {}
        self._tidy_at = 0.0

    def assigned(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """A partition is worked on once it is ours in both topics; both are read from where the manifest says."""
        self._owned.update(partitions)
        found: dict[Partition, int] = {}
        for number in {partition.number for partition in partitions}:
            if all(Partition(topic, number) in self._owned for topic in self.topics):
                part = self._parts[number] = _Part(self._store, number, round(self._settings.remembered_mb * MB))
                found |= part.offsets(number)
        self._tidy_at = 0.0
        return found

    def process(self, batch: Batch) -> Mapping[Partition, int]:
        """Takes a batch, and writes what is due. Raises WorkerStopped for damaged shards."""
        try:
            return self._process(batch)
        except InputError as error:
            # Events were checked before they came here, so it is a file of the shards and no record.
            raise WorkerStopped(f"worker {self.name}: {error}") from error

    def _process(self, batch: Batch) -> Mapping[Partition, int]:
        for record, event in batch.arrivals:
            part = self._parts.get(record.partition)
            if part is None:
                continue
            if isinstance(event, Interaction) and record.value is not None:
                part.pairing.interaction(record.offset, event, record.value)
            elif isinstance(event, Judgement):
                part.pairing.judgement(record.offset, event, batch.looks)
        for number, part in self._parts.items():
            interactions, judgements = Partition(INTERACTIONS, number), Partition(JUDGEMENTS, number)
            part.pairing.passed(batch.after.get(interactions), batch.after.get(judgements))
            part.pairing.pair(complete=interactions not in batch.behind, look=batch.looks)
        self.metrics.waiting.set(sum(part.pairing.waiting for part in self._parts.values()))
        now = time.monotonic()
        if now >= self._tidy_at:
            self._tidy()
            self._tidy_at = now + self._settings.tidy_s
        done: dict[Partition, int] = {}
        for number, part in self._parts.items():
            if self._due(part, now):
                behind = any(Partition(topic, number) in batch.behind for topic in self.topics)
                done |= self._write(number, part, quiet=not behind)
        return done

    def paused(self) -> frozenset[Partition]:
        """Interactions, while too many have no judgement: unless a judgement waits for one that is still to come."""
        waiting = sum(part.pairing.waiting for part in self._parts.values())
        if waiting <= self._settings.waiting:
            return frozenset()
        free = (number for number, part in self._parts.items() if not part.pairing.blocked)
        return frozenset(Partition(INTERACTIONS, number) for number in free)

    def finish(self) -> Mapping[Partition, int]:
        """Writes what there is."""
        done: dict[Partition, int] = {}
        for number, part in self._parts.items():
            if part.pairing.added.judgements or part.pairing.rows:
                done |= self._write(number, part, quiet=False)
        return done

    def _due(self, part: _Part, now: float) -> bool:
        s, since = self._settings, now - part.written_at
        if len(part.pairing.rows) >= s.flush_rows:
            return True
        return since >= (s.flush_s if part.pairing.added.judgements else s.quiet_s)

    def _write(self, number: int, part: _Part, *, quiet: bool) -> dict[Partition, int]:
        """Rows and offsets in one step. What it raises ends the session: all of it is read again."""
        pairing, before = part.pairing, part.writer.manifest.progress
        progress = pairing.progress(self._clock() - timedelta(seconds=self._settings.disorder_s) if quiet else None)
        part.written_at = time.monotonic()
        if progress == before and not pairing.added.judgements:
            return {}
        rows = [row.erased() if self._erased(row.interaction) else row for row in pairing.rows]
        part.writer.append(rows, (before.judgements, progress.judgements), progress, pairing.added)
        for auction in pairing.orphans:
            log.warning("judgement without its interaction", auction=auction)
        self.metrics.added(pairing.added)
        self.metrics.shards.inc()
        if progress.watermark is not None:
            self.metrics.watermark.labels(number).set(progress.watermark.timestamp())
        pairing.written(progress)
        return part.offsets(number)

    def _erased(self, event: Interaction) -> bool:
        erasure = None if event.reader is None else self._erasures.get(event.reader.user_id)
        return erasure is not None and erasure.covers(erasure.user, event.occurred_at)

    def _tidy(self) -> None:
        """Erases, merges, and removes files that nobody needs."""
        self._erasures = requests(self._store)
        now = self._clock()
        for part in self._parts.values():
            rows = part.writer.erase(self._erasures)
            if rows:
                self.metrics.erased.inc(rows)
                log.info("readers' parts erased", partition=part.writer.manifest.partition, rows=rows)
            part.writer.merge()
            part.writer.sweep(now)
        self._forget_requests(now)

    def _forget_requests(self, now: datetime) -> None:
        """A request is itself about a person: it goes when the log holds nothing any more that could come back."""
        old = [erasure for erasure in self._erasures.values() if now >= erasure.log_until]
        if not old:
            return
        manifests = [self._store.manifest(partition) for partition in self._store.partitions()]
        for erasure in old:
            if all(erasure.mark in manifest.erased for manifest in manifests):
                self._store.drop_erasure(erasure.user)
