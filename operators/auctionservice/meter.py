"""Routers' own figures: parsed from their Prometheus metrics, and summed over a step of a rollout.

A router's counters start at 0 when it starts; a counter that fell has restarted (as in Prometheus' `increase`). The
sums are kept in memory: when the operator restarts, the comparison of a step starts again and the step takes longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from operators.auctionservice.comparison import Counts

PREFIX = "llm_auction_"
PARALLEL_READS = 16
ReadMetrics = Callable[[str], str | None]
"""Returns the metrics page at HOST:PORT, None if it cannot be read."""
VersionKey = tuple[str, str]
"""Name of a version and model version of its weights."""


@dataclass(frozen=True, slots=True)
class VersionReport:
    """A router's report on a version: the share that it gives it, in per cent, and whether it may have traffic."""

    share: float
    ready: bool


@dataclass(frozen=True, slots=True)
class Scrape:
    """One router's figures.

    `generation`: of the route file that it follows, None without one; `counts`: by model version, since its start.
    """

    generation: int | None = None
    versions: Mapping[VersionKey, VersionReport] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)


def read_all(addresses: Iterable[str], read: ReadMetrics) -> dict[str, Scrape]:
    """Read the figures of all routers in parallel; return those that could be read, by address."""
    requested = list(addresses)
    with ThreadPoolExecutor(max_workers=PARALLEL_READS) as pool:
        texts = dict(zip(requested, pool.map(read, requested), strict=True))
    return {address: parsed(text) for address, text in texts.items() if text is not None}


def parsed(text: str) -> Scrape:
    """Parse a router's metrics page; serving/metrics.py defines the names."""
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(PREFIX):
                samples.setdefault(sample.name.removeprefix(PREFIX), []).append((sample.labels, sample.value))
    shares = {(k["version"], k["model_version"]): value for k, value in samples.get("version_share", [])}
    ready = {(k["version"], k["model_version"]): value > 0 for k, value in samples.get("version_ready", [])}
    totals: dict[str, dict[str, int]] = {}
    buckets: dict[str, dict[float, int]] = {}

    def add(name: str, field_name: str, **wanted: str) -> None:
        for labels, value in samples.get(name, []):
            if all(labels.get(key) == one for key, one in wanted.items()) and "model_version" in labels:
                total = totals.setdefault(labels["model_version"], {})
                total[field_name] = total.get(field_name, 0) + int(value)

    for outcome in ("answered", "cut", "failed"):  # without "cancelled": the reader left
        add("answers_total", "answers", outcome=outcome)
    add("answers_total", "failed", outcome="failed")
    add("ads_shown_total", "shown")
    add("clicks_total", "clicks", validity="valid")
    add("clicked_micros_total", "revenue_micros")
    for labels, value in samples.get("answer_seconds_bucket", []):
        if "model_version" in labels:
            buckets.setdefault(labels["model_version"], {})[float(labels["le"])] = int(value)
    counts = {
        version: Counts(**totals.get(version, {}), buckets=buckets.get(version, {})) for version in totals | buckets
    }
    generations = [int(value) for _, value in samples.get("routes_generation", [])] if ready else []
    return Scrape(
        generations[0] if generations else None,
        {key: VersionReport(shares.get(key, 0.0), is_ready) for key, is_ready in ready.items()},
        counts,
    )


@dataclass
class Meter:
    """Sums of the routers' counts per service, each over a window that `add` names."""

    _windows: dict[str, str] = field(default_factory=dict)
    _last: dict[str, dict[str, Mapping[str, Counts]]] = field(default_factory=dict)
    """Last counts by service, pod and model version."""
    _sums: dict[str, dict[str, Counts]] = field(default_factory=dict)

    def add(self, service: str, window: str, routers: Mapping[str, Scrape]) -> Mapping[str, Counts]:
        """Add the routers' current counts (by pod); return the sums since the window began, by model version.

        Another window starts the sums again. A router's first scrape in a window is its baseline.
        """
        if self._windows.get(service) != window:
            self._windows[service], self._last[service], self._sums[service] = window, {}, {}
        last, sums = self._last[service], self._sums[service]
        for pod, scrape in routers.items():
            before = last.get(pod, scrape.counts)
            for version, counts in scrape.counts.items():
                sums[version] = plus(sums.get(version, Counts()), increase(before.get(version, Counts()), counts))
            last[pod] = {**last.get(pod, {}), **scrape.counts}
        return sums

    def forget(self, service: str) -> None:
        """Drop the sums of a deleted service."""
        for kept in (self._windows, self._last, self._sums):
            kept.pop(service, None)


FIELDS = ("answers", "failed", "shown", "clicks", "revenue_micros")


def increase(before: Counts, now: Counts) -> Counts:
    """Return the increase between two scrapes of one router; all of `now` if the router has restarted."""
    if now.answers < before.answers:
        return now
    fields = {name: max(0, getattr(now, name) - getattr(before, name)) for name in FIELDS}
    return Counts(**fields, buckets={b: max(0, n - before.buckets.get(b, 0)) for b, n in now.buckets.items()})


def plus(one: Counts, other: Counts) -> Counts:
    """Return the sum of two counts."""
    bounds = {*one.buckets, *other.buckets}
    fields = {name: getattr(one, name) + getattr(other, name) for name in FIELDS}
    return Counts(**fields, buckets={b: one.buckets.get(b, 0) + other.buckets.get(b, 0) for b in bounds})
