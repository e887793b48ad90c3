"""What this router knows of each version's answers, by the minute of the answer: the evidence of a canary.

A click link carries the time and the version of its answer, so a click is counted in the answer's cohort by whichever
router gets it; the sum over the routers is the cohort. `mechanism.canary` compares cohorts, the operator collects them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mechanism.canary.cohorts import CLICK_WINDOW_S, Tally, minute_of
from mechanism.types import AdId, Micros

KEPT_MINUTES = 24 * 60
"""Minutes for which cohorts are kept, so that an operator that restarts reads the canary's earlier ones again."""


@dataclass(frozen=True, slots=True)
class CountedAnswer:
    """What is counted of an answer, at its end.

    `created`: Unix time of its request; `version`: served version that wrote it (`mechanism.weights`);
    `asked_for_ads`: whether it had candidates; `revenue`: payments for impressions and participation, in micros of
    `currency`.
    """

    auction_id: str
    created: int
    version: str
    failed: bool
    asked_for_ads: bool
    shown: int
    seconds: float
    penalty: float
    revenue: Micros
    currency: str


@dataclass(slots=True)
class _Earned:
    """What an answer has earned so far, and which of its ads were clicked."""

    created: int
    micros: Micros = 0
    clicked: set[AdId] = field(default_factory=set)


class CohortCounters:
    """Counts answers and clicks by minute and version. Money counts in one currency, `currency`; safe for threads."""

    def __init__(self, currency: str, clock: Callable[[], float] = time.time) -> None:
        self._currency = currency
        self._clock = clock
        self._lock = threading.Lock()
        self._tallies: dict[tuple[int, str], Tally] = {}
        self._earned: OrderedDict[str, _Earned] = OrderedDict()
        self._newest = 0

    def count_answer(self, answer: CountedAnswer) -> None:
        """Count an answer that has ended, unless its reader left before."""
        priced = answer.currency == self._currency
        with self._lock:
            tally = self._tally(answer.created, answer.version)
            tally.add_answer(
                failed=answer.failed,
                shown=answer.shown,
                seconds=answer.seconds,
                penalty=answer.penalty,
                priced=priced,
            )
            if not answer.asked_for_ads and not answer.failed:
                tally.ad_free -= 1
            if priced and answer.revenue:
                self._earn(tally, answer.auction_id, answer.created, answer.revenue)

    def count_click(
        self, *, auction_id: str, ad_id: AdId, issued: int, version: str, price: Micros, currency: str
    ) -> None:
        """Count a valid click in the cohort of its answer, of Unix time `issued`.

        A click after the click window and one on the same link again count nothing, as for every version.
        """
        now = self._clock()
        if not issued or not version or not 0 <= now - issued <= CLICK_WINDOW_S:
            return
        with self._lock:
            earned = self._earned.get(auction_id)
            if earned is not None and ad_id in earned.clicked:
                return
            tally = self._tally(issued, version)
            tally.clicks += 1
            earned = self._earn(tally, auction_id, issued, price if currency == self._currency else 0)
            earned.clicked.add(ad_id)

    def report(self, since: int) -> list[dict[str, Any]]:
        """Return the cohorts from the minute `since` on, as values for JSON."""
        with self._lock:
            return [
                {"minute": minute, "version": version, **tally.to_dict()}
                for (minute, version), tally in self._tallies.items()
                if minute >= since
            ]

    def _tally(self, created: int, version: str) -> Tally:
        minute = minute_of(created)
        if minute > self._newest:
            self._newest = minute
            for key in [key for key in self._tallies if key[0] <= minute - KEPT_MINUTES]:
                del self._tallies[key]
        return self._tallies.setdefault((minute, version), Tally())

    def _earn(self, tally: Tally, auction_id: str, created: int, micros: Micros) -> _Earned:
        """Add revenue to an answer; forget answers whose click window has passed."""
        while self._earned:
            oldest = next(iter(self._earned.values()))
            if self._clock() - oldest.created <= CLICK_WINDOW_S:
                break
            self._earned.popitem(last=False)
        earned = self._earned.setdefault(auction_id, _Earned(created))
        tally.add_revenue(micros, before=earned.micros)
        earned.micros += micros
        return earned
