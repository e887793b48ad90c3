"""The newest answers of every version, from interactions and clicks as the log brings them, in any order.

Both versions are compared by the clicks of an answer's first `ripe_s` seconds: a version that has just begun would
otherwise lack those that come late. What the windows mean is `serving.canary.guard`'s.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from mechanism.errors import ConfigError
from mechanism.objective import Penalty, s_resp
from mechanism.types import AdId, Answer, Fault, Insertion, Micros
from serving.canary.guard import LiveAnswer
from streaming.events import AnyEvent, Click, Interaction

_HELD = 10_000
"""Clicks kept whose answer has not come yet."""


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """The newest `answers` of each version count; clicks within `ripe_s` seconds of the answer do."""

    answers: int = 1_000
    ripe_s: float = 60.0

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise ConfigError("window.answers", self.answers, "give a whole number of 1 or more")
        if not self.ripe_s >= 0:
            raise ConfigError("window.ripe_s", self.ripe_s, "give 0 seconds or more")


@dataclass(slots=True)
class _Seen:
    at: datetime
    comparable: bool
    answer: LiveAnswer
    paid: Micros
    clicked: set[AdId]


class LiveWindows:
    """The windows, by the digest of the weights that answered; of the ten versions that answered last. Money of several
    currencies is never added: revenue is that of auctions in the currency of the first one seen."""

    def __init__(self, settings: WindowSettings, penalty: Penalty) -> None:
        self._settings = settings
        self._penalty = penalty
        self._windows: OrderedDict[str, deque[str]] = OrderedDict()
        self._seen: dict[str, _Seen] = {}
        self._early: OrderedDict[str, list[Click]] = OrderedDict()
        self._currency = ""

    def add(self, event: AnyEvent) -> None:
        """Takes an event; repetitions and those of other kinds change nothing."""
        if isinstance(event, Interaction):
            self._interaction(event)
        elif isinstance(event, Click) and event.verdict == "valid":
            if event.auction_id in self._seen:
                self._click(self._seen[event.auction_id], event)
            else:
                self._early.setdefault(event.auction_id, []).append(event)
                if len(self._early) > _HELD:
                    self._early.popitem(last=False)

    def of(self, digest: str, now: datetime, since: datetime | None = None) -> list[LiveAnswer]:
        """The window of a version, from `since` on, as it can be told at `now`."""
        ripe = now - timedelta(seconds=self._settings.ripe_s)
        found = (self._seen[auction] for auction in self._windows.get(digest, ()))
        return [
            LiveAnswer(
                seen.answer.seconds,
                seen.answer.failed,
                seen.answer.filled,
                seen.answer.penalty,
                seen.paid if seen.comparable and seen.at <= ripe else None,
            )
            for seen in found
            if since is None or seen.at >= since
        ]

    def _interaction(self, event: Interaction) -> None:
        if event.auction_id in self._seen or not event.candidates or event.outcome == "cancelled":
            return
        window = self._windows.setdefault(event.model_digest, deque())
        self._windows.move_to_end(event.model_digest)
        window.append(event.auction_id)
        failed = event.outcome != "answered"
        answer = LiveAnswer(event.answer_s, failed, bool(event.shown), self._cost(event), None)
        paid = sum(ad.price_micros for ad in event.shown if ad.pricing == "impression")
        paid += sum(part.price_micros for part in event.participations)
        self._currency = self._currency or event.currency
        seen = _Seen(event.occurred_at, event.currency == self._currency, answer, paid, set())
        self._seen[event.auction_id] = seen
        for click in self._early.pop(event.auction_id, ()):
            self._click(seen, click)
        if len(window) > self._settings.answers:
            del self._seen[window.popleft()]
        if len(self._windows) > 10:
            _, oldest = self._windows.popitem(last=False)
            self._forget(oldest)

    def _click(self, seen: _Seen, click: Click) -> None:
        if click.ad_id not in seen.clicked and (click.occurred_at - seen.at).total_seconds() <= self._settings.ripe_s:
            seen.clicked.add(click.ad_id)
            seen.paid += click.price_micros

    def _cost(self, event: Interaction) -> float:
        """The penalty of what was shown, in points. Ads that stand twice count once: an event lists them once."""
        shown = tuple(Insertion(ad.ad_id, 0, 0) for ad in event.shown)
        return s_resp(Answer("", "", shown, tuple(Fault(kind, 0) for kind in event.faults)), self._penalty)

    def _forget(self, auctions: Iterable[str]) -> None:
        for auction in auctions:
            del self._seen[auction]
