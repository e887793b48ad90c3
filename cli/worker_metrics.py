"""The metrics of all workers at one address: each worker's own, with its number as the label `worker`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from typing import Protocol
from urllib.request import ProxyHandler, build_opener

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from mechanism.errors import ConfigError

READ_S = 2.0
"""How long a scrape waits for one worker."""
_OPENER = build_opener(ProxyHandler({}))  # the environment's proxy reaches no port of this machine


class Scraped(Protocol):
    """A worker whose metrics are at a port of this machine."""

    number: int
    metrics_port: int
    restarts: int

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        ...


class WorkerMetrics(Collector):
    """Reads the workers' metrics at each scrape; a worker that does not answer is left out and counts as down."""

    def __init__(self, workers: Sequence[Scraped]) -> None:
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        """Return every worker's families, merged by name."""
        up = GaugeMetricFamily("llm_auction_worker_up", "1 while the worker's metrics can be read.", labels=["worker"])
        restarts = CounterMetricFamily("llm_auction_worker_restarts", "Workers that were replaced.", labels=["worker"])
        merged: dict[str, Metric] = {}
        for worker in self._workers:
            label, families = str(worker.number), list(_families(worker))
            up.add_metric([label], float(bool(families)))
            restarts.add_metric([label], worker.restarts)
            for family in families:
                whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    whole.add_sample(sample.name, sample.labels | {"worker": label}, sample.value)
        return [up, restarts, *merged.values()]


def serve_metrics(address: str, workers: Sequence[Scraped]) -> Callable[[], None]:
    """Serve the metrics of all workers at host:port on a thread, and return the function that ends it.

    Raises:
        ConfigError: if the address cannot be bound.
    """
    registry = CollectorRegistry()
    registry.register(WorkerMetrics(workers))
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, OverflowError) as error:
        raise ConfigError("--metrics", address, f"{error}: choose another") from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close


def _families(worker: Scraped) -> Iterator[Metric]:
    if not worker.running:
        return
    try:
        with _OPENER.open(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=READ_S) as answer:
            text = answer.read().decode()
    except (OSError, HTTPException):  # it is starting, has just exited, or exits while it answers
        return
    yield from text_string_to_metric_families(text)
