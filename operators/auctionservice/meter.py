"""What routers say of themselves: read from their Prometheus metrics, and summed over the time of a canary step.

Counters start at nothing when a router does; a counter that fell counts from there (as Prometheus' `increase` has it).
Sums live in this process alone: after its restart a step's comparison begins anew, which only makes the step longer.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from operators.auctionservice.guards import Counts
from operators.auctionservice.observed import Verdict

PREFIX = "llm_auction_"
TIMEOUT_S = 2.0
SIDE_BY_SIDE = 16
Read = Callable[[str], str | None]
"""The metrics at host:port; None where they cannot be had."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """One router's figures: which route file it follows (None: it follows none), its verdicts by (version, model
    version), and what it has counted since its start, by model version."""

    generation: int | None = None
    refusing: bool = False
    versions: Mapping[tuple[str, str], Verdict] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)


def read_metrics(address: str) -> str | None:
    """GET of /metrics at host:port."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as answer:
            return bytes(answer.read()).decode()
    except (OSError, ValueError):
        return None


def read_all(addresses: Iterable[str], read: Read) -> dict[str, Scrape]:
    """The figures of all routers that can be read, by address; one that is silent holds up no other."""
    wanted = list(addresses)
    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool:
        texts = dict(zip(wanted, pool.map(read, wanted), strict=True))
    return {address: parsed(text) for address, text in texts.items() if text is not None}


def parsed(text: str) -> Scrape:
    """The figures of one router, by the names of serving/metrics.py."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(PREFIX):
                found.setdefault(sample.name.removeprefix(PREFIX), []).append((sample.labels, sample.value))
    shares = {(k["version"], k["model_version"]): value for k, value in found.get("version_share", [])}
    ready = {(k["version"], k["model_version"]): value > 0 for k, value in found.get("version_ready", [])}
    counted: dict[str, dict[str, int]] = {}
    buckets: dict[str, dict[float, int]] = {}

    def add(name: str, field_name: str, **wanted: str) -> None:
        for labels, value in found.get(name, []):
            if all(labels.get(key) == one for key, one in wanted.items()) and "model_version" in labels:
                of = counted.setdefault(labels["model_version"], {})
                of[field_name] = of.get(field_name, 0) + int(value)

    for outcome in ("answered", "cut", "failed"):  # not "cancelled": the reader left
        add("answers_total", "answers", outcome=outcome)
    add("answers_total", "failed", outcome="failed")
    add("ads_shown_total", "shown")
    add("clicks_total", "clicks", validity="valid")
    add("clicked_micros_total", "revenue_micros")
    for labels, value in found.get("answer_seconds_bucket", []):
        if "model_version" in labels:
            buckets.setdefault(labels["model_version"], {})[float(labels["le"])] = int(value)
    counts = {
        version: Counts(**counted.get(version, {}), buckets=buckets.get(version, {})) for version in counted | buckets
    }
    generation = [int(value) for _, value in found.get("routes_generation", [])] if ready else []
    return Scrape(
        generation[0] if generation else None,
        any(value > 0 for _, value in found.get("routes_refused", [])),
        {key: Verdict(shares.get(key, 0.0), good) for key, good in ready.items()},
        counts,
    )


@dataclass
class Meter:
    """Sums by service, over the window that was last asked for."""

    _windows: dict[str, str] = field(default_factory=dict)
    _last: dict[str, dict[tuple[str, str], Counts]] = field(default_factory=dict)
    _sums: dict[str, dict[str, Counts]] = field(default_factory=dict)

    def add(self, service: str, window: str, routers: Mapping[str, Scrape]) -> Mapping[str, Counts]:
        """Takes what routers (by pod) have counted by now; what was counted since the window began, by model version.
        A router that is new in a window begins with it."""
        if self._windows.get(service) != window:
            self._windows[service], self._last[service], self._sums[service] = window, {}, {}
        last, sums = self._last[service], self._sums[service]
        for pod, scrape in routers.items():
            for version, counts in scrape.counts.items():
                before = last.get((pod, version), counts if not self._knew(last, pod) else Counts())
                sums[version] = plus(sums.get(version, Counts()), increase(before, counts))
            last.update({(pod, version): counts for version, counts in scrape.counts.items()})
            last[pod, ""] = Counts()
        return sums

    def forget(self, service: str) -> None:
        """The service is gone."""
        for kept in (self._windows, self._last, self._sums):
            kept.pop(service, None)

    @staticmethod
    def _knew(last: Mapping[tuple[str, str], Counts], pod: str) -> bool:
        return (pod, "") in last


FIELDS = ("answers", "failed", "shown", "clicks", "revenue_micros")


def increase(before: Counts, now: Counts) -> Counts:
    """What came since; all of it where the router began anew."""
    if now.answers < before.answers:
        return now
    fields = {name: max(0, getattr(now, name) - getattr(before, name)) for name in FIELDS}
    return Counts(**fields, buckets={b: max(0, n - before.buckets.get(b, 0)) for b, n in now.buckets.items()})


def plus(one: Counts, other: Counts) -> Counts:
    """Both together."""
    bounds = {*one.buckets, *other.buckets}
    fields = {name: getattr(one, name) + getattr(other, name) for name in FIELDS}
    return Counts(**fields, buckets={b: one.buckets.get(b, 0) + other.buckets.get(b, 0) for b in bounds})
