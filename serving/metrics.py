"""The router's Prometheus metrics: one place for the names. No metric names a reader or a question.

Each router has its own registry, so that several routers can run in one process. The address of the metrics also serves
the rollout report, which the operator reads: the route file that is followed, and the cohorts of each version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from secrets import token_hex
from typing import Any, Protocol
from urllib.parse import parse_qs

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    make_wsgi_app,
    start_http_server,
)

from mechanism.errors import ConfigError
from serving.auction.eligibility import Reason
from serving.auction.separation import SeparationReason
from serving.cohorts import CohortCounters

PREFIX = "llm_auction_"
OVERHEAD_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1)
REPORT_PATH = "/rollout"
ANSWER_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _MetricsServer(Protocol):
    """The part of prometheus_client's HTTP server that is used here."""

    def set_app(self, application: Any) -> None: ...

    def shutdown(self) -> None: ...

    def server_close(self) -> None: ...


class Metrics:
    """The router's metrics.

    The fill rate is `filled_auctions` by `auctions`; both leave out requests that want no ads. `cohorts` counts money
    in `currency`.
    """

    def __init__(self, currency: str = "USD") -> None:
        self.registry = CollectorRegistry()
        self.cohorts = CohortCounters(currency)
        self._server: _MetricsServer | None = None
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
        self.fallbacks = self._counter(
            "ad_free_retries", "Answers repeated without ads because the first attempt failed."
        )
        self.rate_limited = self._counter("rate_limited_requests", "Requests refused with 429, by limit.", "limit")
        self.refused_connections = self._counter("refused_connections", "Closed for a limit, by reason.", "reason")
        self.relayed = self._counter(
            "relayed_requests", "Passed on to the model server without ads, by cause.", "field"
        )
        self.withheld = self._counter("ads_withheld", "Conversations that got no ads, by reason code.", "reason")
        self.edits = self._counter("answer_edits", "Links removed and titles labelled on the way out.", "kind")
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
        self.unsynced = self._gauge("campaign_age_seconds", "Since the last successful read of the database.")
        self.uncharged = self._gauge("uncharged_events", "Events here that the ledger has not booked yet.")
        self.ledger_lag = self._gauge("ledger_lag_seconds", "How long the oldest event may have waited for the ledger.")
        self.breaker = self._gauge(
            "policy_breaker_open", "1 while a circuit breaker holds requests back from a policy server."
        )
        self.ready = self._gauge("policy_ready", "1 while the policy backend can answer.")
        self.generation = self._gauge("routes_generation", "Generation of the route file that is followed.")
        self.refusing = self._gauge(
            "routes_refused", "1 while the route file is invalid and the previous one is followed."
        )
        self.routes_refused = self._counter("route_files_refused", "Route files that were invalid.")
        self.share = self._gauge("version_share", "Per cent of the requests.", "version", "model_version")
        self.version_ready = self._gauge(
            "version_ready", "1 while the version may have traffic.", "version", "model_version"
        )
        self._known: set[tuple[str, str]] = set()
        self._instance = token_hex(8)
        self._followed: dict[str, Any] = {"generation": None, "versions": []}
        self.ad_load = self._gauge("ad_load", "Factor on the bids that the policy sees.")
        self.by_reason = {reason: self.exclusions.labels(reason.value) for reason in Reason}
        self.apart = {reason: self.exclusions.labels(reason.value) for reason in SeparationReason}

    def expose(self, address: str) -> int:
        """Serve the metrics and the rollout report at host:port until `close`, and return the port.

        A thread of its own serves them, so that a scrape does not delay answers.

        Raises:
            ConfigError: if the address cannot be bound.
        """
        host, _, port = address.rpartition(":")
        try:
            server, _ = start_http_server(int(port), host.strip("[]"), self.registry)
        except (OSError, OverflowError) as error:
            raise ConfigError("metrics_address", address, f"{error}: choose another") from error
        server.set_app(self._application())
        self._server = server
        return server.server_port

    def close(self) -> None:
        """Stop serving at the address of `expose`."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def rollout_report(self, since: int = 0) -> bytes:
        """Return the followed route file and the cohorts from the minute `since` on, as JSON.

        `instance` names this process: a router that restarts begins to count again.
        """
        counted = {"instance": self._instance, "cohorts": self.cohorts.report(since)}
        return msgspec.json.encode({**self._followed, **counted})

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Compute a gauge at each scrape."""
        gauge.set_function(read)

    def follow(self, generation: int, refusing: bool, versions: Mapping[str, tuple[str, float, bool]]) -> None:
        """Set the metrics of a route file; `versions` has served version, share (per cent) and readiness by name."""
        self.generation.set(generation)
        self.refusing.set(refusing)
        now = {(name, version) for name, (version, _, _) in versions.items()}
        for labels in self._known - now:
            self.share.remove(*labels)
            self.version_ready.remove(*labels)
        self._known = now
        reports = [
            {"name": name, "model_version": version, "share": share, "ready": ready}
            for name, (version, share, ready) in versions.items()
        ]
        self._followed = {"generation": generation, "versions": reports}
        for name, (version, share, ready) in versions.items():
            self.share.labels(name, version).set(share)
            self.version_ready.labels(name, version).set(ready)

    def _application(self) -> Callable[[Mapping[str, Any], Callable[..., Any]], Any]:
        """Return the WSGI application of `expose`."""
        metrics = make_wsgi_app(self.registry)

        def application(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Any:
            if environ["PATH_INFO"] != REPORT_PATH:
                return metrics(environ, start_response)
            since = parse_qs(environ.get("QUERY_STRING", "")).get("since", ["0"])[0]
            if not since.isdecimal():
                start_response("400 Bad Request", [("Content-Type", "text/plain")])
                return [b"since: give the number of a minute, Unix time divided by 60\n"]
            start_response("200 OK", [("Content-Type", "application/json")])
            return [self.rollout_report(int(since))]

        return application

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self.registry)
