"""Routers' own figures: their rollout reports, and from these the evidence on a new version.

A report holds a router's cohorts since a minute. A cohort that is read again replaces the earlier reading, so nothing
is counted twice, and an operator that restarts reads the canary from its beginning. Only the cohorts of a router that
is gone by then are lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mechanism.canary.cohorts import CLICK_WINDOW_S, Evidence, Tally, evidence, minute_of

PARALLEL_READS = 16
FINAL_S = CLICK_WINDOW_S + 900.0
"""Age at which no router changes a cohort any more: its last clicks and its longest answers are counted."""
ReadReport = Callable[[str, int], str | None]
"""Returns the rollout report at HOST:PORT since a minute, None if it cannot be read."""
VersionKey = tuple[str, str]
"""Name of a version in the route file, and its served version."""
CohortKey = tuple[int, str]
"""Minute of the answers and the served version that wrote them."""


@dataclass(frozen=True, slots=True)
class VersionReport:
    """A router's report on a version: the share that it gives it, in per cent, and whether it may have traffic."""

    share: float
    ready: bool


@dataclass(frozen=True, slots=True)
class Report:
    """One router's report: the generation of the route file that it follows (None without one), and its cohorts.

    `instance` names the process that counted them.
    """

    instance: str = ""
    generation: int | None = None
    versions: Mapping[VersionKey, VersionReport] = field(default_factory=dict)
    cohorts: Mapping[CohortKey, Tally] = field(default_factory=dict)


def read_all(addresses: Iterable[str], since: int, read: ReadReport) -> dict[str, Report]:
    """Read the reports of all routers in parallel; return those that could be read, by address."""
    requested = list(addresses)
    with ThreadPoolExecutor(max_workers=PARALLEL_READS) as pool:
        texts = pool.map(lambda address: read(address, since), requested)
        reports = {address: parsed(text) for address, text in zip(requested, texts, strict=True) if text is not None}
    return {address: report for address, report in reports.items() if report is not None}


def parsed(text: str) -> Report | None:
    """Parse a router's rollout report (`serving.metrics`); None for another text, such as an older router's metrics."""
    try:
        values = json.loads(text)
        versions, cohorts = values["versions"], values["cohorts"]
        return Report(
            values["instance"],
            values["generation"],
            {(one["name"], one["model_version"]): VersionReport(one["share"], one["ready"]) for one in versions},
            {(one["minute"], one["version"]): Tally.from_dict(one) for one in cohorts},
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass
class _Canary:
    """Cohorts of one service since its canary began: final ones summed over the routers, the others by instance."""

    window: str
    final: dict[CohortKey, Tally] = field(default_factory=dict)
    by_instance: dict[str, dict[CohortKey, Tally]] = field(default_factory=dict)
    final_before: int = 0


@dataclass
class Meter:
    """The cohorts of each service's canary, in memory."""

    _canaries: dict[str, _Canary] = field(default_factory=dict)

    def since(self, service: str, window: str, begin: int) -> int:
        """Return the first minute that is still to be read of a canary that began in the minute `begin`."""
        return max(begin, self._canary(service, window).final_before)

    def add(self, service: str, window: str, reports: Iterable[Report], now: float) -> None:
        """Take the routers' reports as they are at Unix time `now`; another `window` is another canary."""
        canary = self._canary(service, window)
        for report in reports:
            cohorts = canary.by_instance.setdefault(report.instance, {})
            cohorts |= {key: tally for key, tally in report.cohorts.items() if key[0] >= canary.final_before}
        canary.final_before = max(canary.final_before, minute_of(now - FINAL_S))
        for cohorts in canary.by_instance.values():
            for key in [key for key in cohorts if key[0] < canary.final_before]:
                canary.final.setdefault(key, Tally()).merge(cohorts.pop(key))
        canary.by_instance = {instance: cohorts for instance, cohorts in canary.by_instance.items() if cohorts}

    def evidence(self, service: str, versions: tuple[str, str], begin: int, now: float) -> Evidence:
        """Return what is known of the new and the old version (their served versions) since the minute `begin`."""
        new, old = (self._tallies(service, version, begin) for version in versions)
        return evidence(new, old, now, CLICK_WINDOW_S)

    def forget(self, service: str) -> None:
        """Drop the cohorts of a deleted service."""
        self._canaries.pop(service, None)

    def _canary(self, service: str, window: str) -> _Canary:
        canary = self._canaries.get(service)
        if canary is None or canary.window != window:
            canary = self._canaries[service] = _Canary(window)
        return canary

    def _tallies(self, service: str, version: str, begin: int) -> dict[int, Tally]:
        canary, found = self._canaries.get(service), dict[int, Tally]()
        for cohorts in (canary.final, *canary.by_instance.values()) if canary is not None else ():
            for (minute, of), tally in cohorts.items():
                if of == version and minute >= begin:
                    found.setdefault(minute, Tally()).merge(tally)
        return found
