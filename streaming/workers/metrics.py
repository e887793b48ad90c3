"""What workers count, in Prometheus' terms: throughput, lag, age, errors. One object for all workers of a registry."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streaming.log import Partition, Record

PREFIX = "llm_auction_worker_"
_PLACE = ("worker", "topic", "partition")
_AGES_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200)
_BATCHES_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class WorkerMetrics:
    """The metrics, labelled by worker. `age` is how long the oldest record of a batch had been in the log when its
    batch was done."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._records = Counter(
            PREFIX + "records", "Records taken, repetitions counted.", ("worker", "topic"), registry=registry
        )
        self._lag = Gauge(PREFIX + "lag_records", "Records that wait in a partition.", _PLACE, registry=registry)
        self._age = Histogram(
            PREFIX + "age_seconds", "From the log to done.", ("worker",), registry=registry, buckets=_AGES_S
        )
        self._batch = Histogram(
            PREFIX + "batch_seconds", "Time spent on a batch.", ("worker",), registry=registry, buckets=_BATCHES_S
        )
        self._letters = Counter(PREFIX + "dead_letters", "Records set aside.", ("worker", "topic"), registry=registry)
        self._errors = Counter(PREFIX + "errors", "Batches begun anew, by kind.", ("worker", "kind"), registry=registry)
        self._rebalances = Counter(
            PREFIX + "rebalances", "Times that partitions were assigned.", ("worker",), registry=registry
        )

    def took(self, worker: str, records: Sequence[Record], seconds: float) -> None:
        """A batch is done."""
        for topic, count in Tally(record.topic for record in records).items():
            self._records.labels(worker, topic).inc(count)
        oldest = min(record.timestamp for record in records)
        self._age.labels(worker).observe(max(0.0, (datetime.now(UTC) - oldest).total_seconds()))
        self._batch.labels(worker).observe(seconds)

    def lags(self, worker: str, lags: Mapping[Partition, int]) -> None:
        """Records between what was read and the end."""
        for (topic, number), lag in lags.items():
            self._lag.labels(worker, topic, number).set(lag)

    def gone(self, worker: str, partitions: Iterable[Partition]) -> None:
        """Partitions that another member has now: their lag is no longer this one's to tell."""
        for topic, number in partitions:
            with suppress(KeyError):
                self._lag.remove(worker, topic, number)

    def failed(self, worker: str, kind: str) -> None:
        """A batch, a commit or a look at the log failed: "refused", "unexpected", "unavailable" or "fenced"."""
        self._errors.labels(worker, kind).inc()

    def dead_letter(self, worker: str, topic: str) -> None:
        """A record was set aside."""
        self._letters.labels(worker, topic).inc()

    def rebalanced(self, worker: str) -> None:
        """Partitions were assigned."""
        self._rebalances.labels(worker).inc()
