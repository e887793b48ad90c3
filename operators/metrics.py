"""The operator's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from operators.conditions import TABLES, ServiceReason

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class OperatorMetrics:
    """All metrics in one registry. Label `kind` is a resource's kind, `phase` its status' phase.

    What alerts count begins at 0, because Prometheus takes a counter that begins at 1 for one that did not increase.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.objects = Gauge(
            "llm_auction_operator_objects", "Objects by kind and phase.", ["kind", "phase"], registry=self.registry
        )
        self.events = Counter(
            "llm_auction_operator_events_total",
            "Events written, by kind, reason and type.",
            ["kind", "reason", "type"],
            registry=self.registry,
        )
        self.delay = Histogram(
            "llm_auction_operator_delay_seconds",
            "Time from the event that queued an object to the status written for it.",
            ["kind"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.rounds = Counter(
            "llm_auction_operator_rounds_total",
            "Reconcile passes, by kind and result.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.leading = Gauge(
            "llm_auction_operator_leading", "1 while this replica reconciles, else 0.", registry=self.registry
        )
        self.calls = Counter(
            "llm_auction_operator_api_calls_total",
            "Requests to the API server.",
            ["verb", "resource"],
            registry=self.registry,
        )
        for kind in TABLES:
            self.rounds.labels(kind, "defect")
        for reason in ServiceReason:
            self.events.labels("AuctionService", reason, "Warning")
