"""Cohorts of every version from the event log: interactions and clicks in any order, each counted once.

A click counts in its answer's minute if it came within the click window, for every version alike. The comparison is
`mechanism.canary`'s.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mechanism.canary.cohorts import Tally, minute_of
from mechanism.errors import ConfigError
from mechanism.objective import Penalty, s_resp
from mechanism.types import AdId, Answer, Fault, Insertion, Micros
from streaming.events import AnyEvent, Click, Interaction

MAX_VERSIONS = 10
MAX_COHORTS = 2_880
"""Minutes with answers that are kept of each version."""
_MAX_ANSWERS = 100_000
"""Number of newest answers that further clicks can be attributed to, and that are recognised when they are repeated."""
_MAX_EARLY = 10_000
"""Number of auctions whose clicks are kept until their interaction arrives."""


@dataclass(slots=True)
class _Known:
    """An answer that clicks may still follow: its cohort, what it has earned, and its clicked ads."""

    at: datetime
    cohort: Tally
    priced: bool
    earned: Micros = 0
    clicked: set[AdId] = field(default_factory=set)


class LogCohorts:
    """Tallies by minute and by the digest of the weights that wrote the answers, for the ten newest versions.

    Money of several currencies is never added: revenue counts auctions in the currency of the first one seen.

    Raises:
        ConfigError: if the click window is not a number of seconds.
    """

    def __init__(self, click_window_s: float, penalty: Penalty) -> None:
        if not 0 <= click_window_s < math.inf:
            raise ConfigError("guard.click_window_s", click_window_s, "give 0 seconds or more")
        self.click_window_s = click_window_s
        self._penalty = penalty
        self._versions: OrderedDict[str, dict[int, Tally]] = OrderedDict()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._early: OrderedDict[str, list[Click]] = OrderedDict()
        self._currency = ""

    def add(self, event: AnyEvent) -> None:
        """Add an event; repetitions and events of other kinds change nothing."""
        if isinstance(event, Interaction):
            self._add_interaction(event)
        elif isinstance(event, Click) and event.verdict == "valid":
            if event.auction_id in self._known:
                self._add_click(self._known[event.auction_id], event)
            else:
                self._early.setdefault(event.auction_id, []).append(event)
                if len(self._early) > _MAX_EARLY:
                    self._early.popitem(last=False)

    def of(self, digest: str, since: datetime | None = None) -> dict[int, Tally]:
        """Return a version's cohorts by minute, in order, from the minute of `since` on."""
        begin = 0 if since is None else minute_of(since.timestamp())
        cohorts = self._versions.get(digest, {})
        return {minute: cohorts[minute] for minute in sorted(cohorts) if minute >= begin}

    def _add_interaction(self, event: Interaction) -> None:
        if event.auction_id in self._known or not event.candidates or event.outcome == "cancelled":
            return
        self._currency = self._currency or event.currency
        tally = self._cohort(event.model_digest, minute_of(event.occurred_at.timestamp()))
        known = _Known(event.occurred_at, tally, event.currency == self._currency)
        self._known[event.auction_id] = known
        if len(self._known) > _MAX_ANSWERS:
            self._known.popitem(last=False)
        tally.add_answer(
            failed=event.outcome != "answered",
            shown=len(event.shown),
            seconds=event.answer_s,
            penalty=self._penalty_of(event),
            priced=known.priced,
        )
        paid = sum(ad.price_micros for ad in event.shown if ad.pricing == "impression")
        _earn(known, paid + sum(part.price_micros for part in event.participations))
        for click in self._early.pop(event.auction_id, ()):
            self._add_click(known, click)

    def _cohort(self, digest: str, minute: int) -> Tally:
        cohorts = self._versions.setdefault(digest, {})
        self._versions.move_to_end(digest)
        if len(self._versions) > MAX_VERSIONS:
            self._versions.popitem(last=False)
        tally = cohorts.setdefault(minute, Tally())
        if len(cohorts) > MAX_COHORTS:
            del cohorts[min(cohorts)]
        return tally

    def _add_click(self, known: _Known, click: Click) -> None:
        in_window = (click.occurred_at - known.at).total_seconds() <= self.click_window_s
        if in_window and click.ad_id not in known.clicked:
            known.clicked.add(click.ad_id)
            known.cohort.clicks += 1
            _earn(known, click.price_micros)

    def _penalty_of(self, event: Interaction) -> float:
        """Return the penalty of the shown ads in points. An ad shown twice counts once: an event lists it once."""
        shown = tuple(Insertion(ad.ad_id, 0, 0) for ad in event.shown)
        return s_resp(Answer("", "", shown, tuple(Fault(kind, 0) for kind in event.faults)), self._penalty)


def _earn(known: _Known, micros: Micros) -> None:
    if known.priced and micros:
        known.cohort.add_revenue(micros, before=known.earned)
        known.earned += micros


def newest(cohorts: Mapping[int, Tally], answers: int) -> dict[int, Tally]:
    """Return the newest cohorts that hold `answers` answers together, or all if they hold fewer."""
    found: dict[int, Tally] = {}
    for minute in sorted(cohorts, reverse=True):
        if sum(tally.answers for tally in found.values()) >= answers:
            break
        found[minute] = cohorts[minute]
    return found
