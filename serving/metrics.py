"""What the router counts, in Prometheus' terms: one place for the names. Nothing here names a reader or a question.

Each router has a registry of its own, so that several can live in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from mechanism.errors import ConfigError
from serving.auction.eligibility import Reason
from serving.auction.separation import SeparationReason

PREFIX = "llm_auction_"
OVERHEAD_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)
ANSWER_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The router's figures. Fill rate is `filled_auctions` by `auctions`, both of which leave ad-free requests out."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._server: Any = None
        self.requests = self._counter("http_requests", "Requests by route and status.", "route", "status")
        self.answers = self._counter("answers", "Chat answers by outcome.", "outcome", "model_version")
        self.overhead = self._histogram("router_overhead_seconds", "From a request to the policy's call.", OVERHEAD_S)
        self.first_token = self._histogram("time_to_first_token_seconds", "From a request to its first text.", ANSWER_S)
        self.seconds = self._histogram(
            "answer_seconds", "From a request to the end of its answer.", ANSWER_S, "model_version"
        )
        self.auctions = self._counter("auctions", "Auctions with at least one eligible creative or exclusion.")
        self.filled = self._counter("filled_auctions", "Auctions whose answer shows at least one ad.")
        self.shown = self._counter("ads_shown", "Sponsored links in answers.", "model_version")
        self.fallbacks = self._counter("ad_free_retries", "Answers begun again without ads because the first failed.")
        self.exclusions = self._counter("exclusions", "Campaigns and creatives left out, by reason code.", "reason")
        self.clicks = self._counter(
            "clicks", "Followed links: charged later, or the reason why not.", "validity", "model_version"
        )
        self.clicked = self._counter(
            "clicked_micros", "Bids of valid clicks, before budgets.", "currency", "model_version"
        )
        self.revenue = self._counter(
            "revenue_micros", "Charged by this router's deliveries.", "currency", "pricing", "model_version"
        )
        self.in_flight = self._gauge("answers_in_flight", "Answers being written.")
        self.campaigns = self._gauge("campaigns", "Campaigns in memory.")
        self.unsynced = self._gauge("campaign_age_seconds", "Since the last look at the database that succeeded.")
        self.uncharged = self._gauge("uncharged_events", "Events here that the ledger has not booked yet.")
        self.breaker = self._gauge("policy_breaker_open", "1 while the policy backend is left alone.")
        self.ready = self._gauge("policy_ready", "1 while the policy backend can answer.")
        self.generation = self._gauge("routes_generation", "The route file's own count, of the one followed.")
        self.refusing = self._gauge("routes_refused", "1 while the route file is bad and the one before is followed.")
        self.routes_refused = self._counter("route_files_refused", "Route files that were bad.")
        self.share = self._gauge("version_share", "Per cent of the questions given out.", "version", "model_version")
        self.version_ready = self._gauge("version_ready", "1: may have traffic.", "version", "model_version")
        self._known: set[tuple[str, str]] = set()
        self.ad_load = self._gauge("ad_load", "Factor on the bids that the policy sees.")
        self.by_reason = {reason: self.exclusions.labels(reason.value) for reason in Reason}
        self.apart = {reason: self.exclusions.labels(reason.value) for reason in SeparationReason}

    def expose(self, address: str) -> int:
        """Serves the figures, and nothing else, at host:port until `close`; on a thread of its own, as a look at them
        must not hold up answers. The port it has. Raises ConfigError for an address that cannot be had."""
        host, _, port = address.rpartition(":")
        try:
            self._server, _ = start_http_server(int(port), host.strip("[]"), self.registry)
        except (OSError, OverflowError) as error:
            raise ConfigError("metrics_address", address, f"{error}: choose another") from error
        return int(self._server.server_port)

    def close(self) -> None:
        """Ends what `expose` began."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def render(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Reads a gauge when it is asked for."""
        gauge.set_function(read)

    def follow(self, generation: int, refusing: bool, versions: Mapping[str, tuple[str, float, bool]]) -> None:
        """What a route file says and what is made of it; `versions`: model version, share (%), ready, by name."""
        self.generation.set(generation)
        self.refusing.set(refusing)
        now = {(name, version) for name, (version, _, _) in versions.items()}
        for labels in self._known - now:
            self.share.remove(*labels)
            self.version_ready.remove(*labels)
        self._known = now
        for name, (version, share, ready) in versions.items():
            self.share.labels(name, version).set(share)
            self.version_ready.labels(name, version).set(ready)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self.registry)
