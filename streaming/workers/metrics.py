"""Prometheus metrics of workers: throughput, lag, age, errors. One object for all workers of a registry."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from streaming.log import Partition, Record

PREFIX = "llm_auction_worker_"
_PLACE = ("worker", "topic", "partition")
_AGES_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200)
_BATCHES_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class WorkerMetrics:
    """The metrics, labelled by worker.

    The age of a batch is the time from the append of its oldest record until the batch was processed.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._records = Counter(
            PREFIX + "records", "Records processed, including repeated ones.", ("worker", "topic"), registry=registry
        )
        self._lag = Gauge(PREFIX + "lag_records", "Records that wait in a partition.", _PLACE, registry=registry)
        self._age = Histogram(
            PREFIX + "age_seconds", "From append to processed.", ("worker",), registry=registry, buckets=_AGES_S
        )
        self._batch = Histogram(
            PREFIX + "batch_seconds", "Time spent on a batch.", ("worker",), registry=registry, buckets=_BATCHES_S
        )
        self._letters = Counter(
            PREFIX + "dead_letters", "Records sent to the dead letters.", ("worker", "topic"), registry=registry
        )
        self._errors = Counter(PREFIX + "errors", "Failures by kind.", ("worker", "kind"), registry=registry)
        self._partitions = Gauge(
            PREFIX + "partitions", "Partitions that this worker owns.", ("worker",), registry=registry
        )

    def took(self, worker: str, records: Sequence[Record], seconds: float) -> None:
        """Count a processed batch."""
        for topic, count in Tally(record.topic for record in records).items():
            self._records.labels(worker, topic).inc(count)
        oldest = min(record.timestamp for record in records)
        self._age.labels(worker).observe(max(0.0, (datetime.now(UTC) - oldest).total_seconds()))
        self._batch.labels(worker).observe(seconds)

    def lags(self, worker: str, lags: Mapping[Partition, int]) -> None:
        """Set the number of records between the position and the end.

        Dead letters of the topics are counted from 0 on: Prometheus takes a counter that begins at 1 for one that did
        not increase.
        """
        for (topic, number), lag in lags.items():
            self._lag.labels(worker, topic, number).set(lag)
            self._letters.labels(worker, topic)

    def failed(self, worker: str, kind: str) -> None:
        """Count a failure: "refused", "unexpected", "unavailable" or "fenced"."""
        self._errors.labels(worker, kind).inc()

    def dead_letter(self, worker: str, topic: str) -> None:
        """Count a dead letter."""
        self._letters.labels(worker, topic).inc()

    def owns(self, worker: str, partitions: int) -> None:
        """Set the number of owned partitions."""
        self._partitions.labels(worker).set(partitions)
