"""The newest answers of every version, from interactions and clicks in any order.

Only clicks of an answer's first `click_window_s` seconds count, for both versions: otherwise a version that has
just started would lack late clicks. The comparison is `serving.canary.guard`'s.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from mechanism.errors import ConfigError
from mechanism.objective import Penalty, s_resp
from mechanism.types import AdId, Answer, Fault, Insertion, Micros
from serving.canary.guard import ServedAnswer
from streaming.events import AnyEvent, Click, Interaction

MAX_VERSIONS = 10
_MAX_EARLY = 10_000
"""Number of auctions whose clicks are kept until their interaction arrives."""


@dataclass(frozen=True, slots=True)
class SampleSettings:
    """The newest `answers` of each version count, with the clicks within `click_window_s` seconds of the answer."""

    answers: int = 1_000
    click_window_s: float = 60.0

    def __post_init__(self) -> None:
        if self.answers < 1:
            raise ConfigError("window.answers", self.answers, "give a whole number of 1 or more")
        if not self.click_window_s >= 0:
            raise ConfigError("window.click_window_s", self.click_window_s, "give 0 seconds or more")


@dataclass(slots=True)
class _Recorded:
    """An answer, whether its money is in the samples' currency, and what its clicks and impressions cost so far."""

    at: datetime
    comparable: bool
    answer: ServedAnswer
    paid: Micros
    clicked: set[AdId]


class AnswerSamples:
    """The newest answers by the digest of the weights that wrote them, for the ten versions that answered last.

    Money of several currencies is never added: revenue counts auctions in the currency of the first one seen.
    """

    def __init__(self, settings: SampleSettings, penalty: Penalty) -> None:
        self._settings = settings
        self._penalty = penalty
        self._auctions: OrderedDict[str, deque[str]] = OrderedDict()
        self._recorded: dict[str, _Recorded] = {}
        self._early: OrderedDict[str, list[Click]] = OrderedDict()
        self._currency = ""

    def add(self, event: AnyEvent) -> None:
        """Add an event; repetitions and events of other kinds change nothing."""
        if isinstance(event, Interaction):
            self._add_interaction(event)
        elif isinstance(event, Click) and event.verdict == "valid":
            if event.auction_id in self._recorded:
                self._add_click(self._recorded[event.auction_id], event)
            else:
                self._early.setdefault(event.auction_id, []).append(event)
                if len(self._early) > _MAX_EARLY:
                    self._early.popitem(last=False)

    def of(self, digest: str, now: datetime, since: datetime | None = None) -> list[ServedAnswer]:
        """Return a version's answers from `since` on; revenue is None for those whose click window is open at `now`."""
        closed = now - timedelta(seconds=self._settings.click_window_s)
        found = (self._recorded[auction] for auction in self._auctions.get(digest, ()))
        return [
            ServedAnswer(
                one.answer.seconds,
                one.answer.failed,
                one.answer.filled,
                one.answer.penalty,
                one.paid if one.comparable and one.at <= closed else None,
            )
            for one in found
            if since is None or one.at >= since
        ]

    def _add_interaction(self, event: Interaction) -> None:
        if event.auction_id in self._recorded or not event.candidates or event.outcome == "cancelled":
            return
        auctions = self._auctions.setdefault(event.model_digest, deque())
        self._auctions.move_to_end(event.model_digest)
        auctions.append(event.auction_id)
        failed = event.outcome != "answered"
        answer = ServedAnswer(event.answer_s, failed, bool(event.shown), self._penalty_of(event), None)
        paid = sum(ad.price_micros for ad in event.shown if ad.pricing == "impression")
        paid += sum(part.price_micros for part in event.participations)
        self._currency = self._currency or event.currency
        recorded = _Recorded(event.occurred_at, event.currency == self._currency, answer, paid, set())
        self._recorded[event.auction_id] = recorded
        for click in self._early.pop(event.auction_id, ()):
            self._add_click(recorded, click)
        if len(auctions) > self._settings.answers:
            del self._recorded[auctions.popleft()]
        if len(self._auctions) > MAX_VERSIONS:
            _, oldest = self._auctions.popitem(last=False)
            for auction in oldest:
                del self._recorded[auction]

    def _add_click(self, recorded: _Recorded, click: Click) -> None:
        in_window = (click.occurred_at - recorded.at).total_seconds() <= self._settings.click_window_s
        if in_window and click.ad_id not in recorded.clicked:
            recorded.clicked.add(click.ad_id)
            recorded.paid += click.price_micros

    def _penalty_of(self, event: Interaction) -> float:
        """Return the penalty of the shown ads in points. An ad shown twice counts once: an event lists it once."""
        shown = tuple(Insertion(ad.ad_id, 0, 0) for ad in event.shown)
        return s_resp(Answer("", "", shown, tuple(Fault(kind, 0) for kind in event.faults)), self._penalty)
