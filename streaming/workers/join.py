"""Interactions joined with their clicks over an attribution window, by event time; one partition, pure.

In which order records arrive does not matter to what is said last about an auction, nor do repetitions: the revision of
a judgement is the number of clicks that were joined, and what it says depends on those alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from judge.grades import Grades
from mechanism.errors import ConfigError
from mechanism.types import AdId
from streaming.events import Click, Interaction, JudgedAd, Judgement

_SECOND = timedelta(seconds=1)
Clicked = dict[AdId, float]
"""Ads that were clicked, and how many seconds after the answer."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """Seconds of event time. A click counts within `window_s` of the answer. The first judgement is made `settle_s`
    after the answer, later clicks amend it. Clicks that arrive more than `lateness_s` after the window are not joined
    any more; an interaction that comes late itself is given as much time as any other."""

    window_s: float = 1_800.0
    settle_s: float = 1.0
    lateness_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.window_s > 0:
            raise ConfigError("judge.window_s", self.window_s, "give more than 0 seconds")
        if not 0 <= self.settle_s <= self.window_s:
            raise ConfigError("judge.settle_s", self.settle_s, f"give 0 to the window's {self.window_s:g} seconds")
        if self.lateness_s < 0:
            raise ConfigError("judge.lateness_s", self.lateness_s, "give 0 seconds or more")

    @property
    def kept(self) -> timedelta:
        """How long an auction stays open."""
        return timedelta(seconds=self.window_s + self.lateness_s)


class JudgedAuction(NamedTuple):
    """The newest judgement of an auction, for its record in the log."""

    auction_id: str
    answered_at: datetime
    revision: int
    ads: tuple[JudgedAd, ...]
    quality: float | None


@dataclass(slots=True)
class _Open:
    """An auction that may still be judged or amended. `mark` is the caller's; `said` and `revision` are of the
    last judgement, None and -1 before it."""

    mark: int
    closes: datetime
    answered_at: datetime | None = None
    shown: tuple[AdId, ...] = ()
    grades: Grades | None = None
    settled: bool = False
    clicks: set[tuple[AdId, datetime]] = field(default_factory=set)
    said: Clicked | None = None
    revision: int = -1


class Join:
    """The open auctions of one partition. `watermark` is the event time before which nothing more is expected, None
    before anything was. A method that is given a `mark` says whether it is kept, until `close` gives it back."""

    def __init__(self, attribution: Attribution) -> None:
        self._window = attribution.window_s * _SECOND
        self._settle = attribution.settle_s * _SECOND
        self._kept = attribution.kept
        self.watermark: datetime | None = None
        self.unmatched = 0
        """Clicks that were given up: their interaction did not come, or was closed before they came."""
        self._open: dict[str, _Open] = {}
        self._settling: list[tuple[datetime, str]] = []
        self._closing: list[tuple[datetime, str]] = []
        self._changed: dict[str, None] = {}
        self._ungraded: dict[str, Interaction] = {}

    def __len__(self) -> int:
        return len(self._open)

    def interaction(self, event: Interaction, mark: int) -> bool:
        """An interaction was read."""
        found, new = self._find(event.auction_id, event.occurred_at, mark)
        if found.answered_at is not None:
            return new  # a repetition
        found.answered_at = event.occurred_at
        found.shown = tuple(shown.ad_id for shown in event.shown)
        if found.grades is None:
            self._ungraded[event.auction_id] = event
        heapq.heappush(self._settling, (event.occurred_at + self._settle, event.auction_id))
        return new

    def click(self, event: Click, mark: int) -> bool:
        """A click was read; invalid ones say nothing about the reader."""
        if event.verdict != "valid":
            return False
        found, new = self._find(event.auction_id, event.occurred_at, mark)
        found.clicks.add((event.ad_id, event.occurred_at))
        if found.settled:
            self._changed[event.auction_id] = None
        return new

    def judged(self, judgement: Judgement, mark: int, *, opening: bool) -> bool:
        """One of this judge's own judgements was read back; it need not be made again. `opening` False passes over an
        auction that is not open."""
        if not opening and judgement.auction_id not in self._open:
            return False
        found, new = self._find(judgement.auction_id, judgement.answered_at, mark)
        if judgement.revision > found.revision:
            found.revision = judgement.revision
            found.said = {ad.ad_id: ad.clicked_after_s for ad in judgement.ads if ad.clicked_after_s is not None}
        if found.grades is None:
            found.grades = _grades(judgement)
            self._ungraded.pop(judgement.auction_id, None)
        return new

    def ungraded(self, most: int) -> list[Interaction]:
        """Interactions to grade, the oldest first."""
        return [event for event, _ in zip(self._ungraded.values(), range(most), strict=False)]

    def grade(self, grades: Mapping[str, Grades]) -> None:
        """Takes grades by auction."""
        for auction, graded in grades.items():
            del self._ungraded[auction]
            found = self._open[auction]
            found.grades = graded
            if found.settled:
                self._changed[auction] = None

    def advance(self, watermark: datetime) -> None:
        """Moves the watermark on; it never goes back."""
        if self.watermark is not None and watermark <= self.watermark:
            watermark = self.watermark  # a late interaction settles all the same
        self.watermark = watermark
        while self._settling and self._settling[0][0] <= watermark:
            _, auction = heapq.heappop(self._settling)
            self._open[auction].settled = True
            self._changed[auction] = None

    def judged_auctions(self) -> list[JudgedAuction]:
        """Return the auctions whose judgement is new or has changed, each once."""
        found = []
        for auction in list(self._changed):
            entry = self._open[auction]
            if entry.grades is None:
                continue  # changes again when it is graded
            del self._changed[auction]
            clicked, revision = self._clicked(entry)
            if revision <= entry.revision or clicked == entry.said:
                continue
            entry.said, entry.revision = clicked, revision
            found.append(_judged_auction(auction, entry, clicked))
        return found

    def close(self) -> Iterable[int]:
        """Forgets what is over; the marks that were kept for it."""
        if self.watermark is None:
            return []
        marks = []
        while self._closing and self._closing[0][0] <= self.watermark:
            _, auction = heapq.heappop(self._closing)
            entry = self._open[auction]
            waits = auction in self._ungraded or auction in self._changed
            closes = self.watermark + self._window if waits else entry.closes
            if closes > self.watermark:
                heapq.heappush(self._closing, (closes, auction))
                continue
            if entry.answered_at is None and entry.said is None:
                self.unmatched += len(entry.clicks)
            del self._open[auction]
            marks.append(entry.mark)
        return marks

    def _find(self, auction: str, at: datetime, mark: int) -> tuple[_Open, bool]:
        """The auction's entry, and whether it is a new one. Every record of an auction prolongs it."""
        closes = (at if self.watermark is None else max(at, self.watermark)) + self._kept
        found = self._open.get(auction)
        if found is not None:
            if found.answered_at is None:
                found.closes = max(found.closes, closes)
            return found, False
        found = self._open[auction] = _Open(mark, closes)
        heapq.heappush(self._closing, (closes, auction))
        return found, True

    def _clicked(self, entry: _Open) -> tuple[Clicked, int]:
        """First clicks within the window by ad, in the answer's order, and how many clicks there were."""
        assert entry.answered_at is not None
        counted = [(ad, at) for ad, at in entry.clicks if at - entry.answered_at <= self._window and ad in entry.shown]
        first: dict[AdId, datetime] = {}
        for ad, at in counted:
            first[ad] = min(at, first.get(ad, at))
        # A reader may click in a stream before its answer is finished, and clocks of two routers differ.
        seconds = {ad: max(0.0, (first[ad] - entry.answered_at) / _SECOND) for ad in entry.shown if ad in first}
        return seconds, len(counted)


def _judged_auction(auction: str, entry: _Open, clicked: Clicked) -> JudgedAuction:
    assert entry.answered_at is not None
    assert entry.grades is not None
    grades = entry.grades
    ads = tuple(
        JudgedAd(
            ad_id=ad,
            clicked=ad in clicked,
            clicked_after_s=clicked.get(ad),
            relevance=grades.relevance.get(ad),
            nativeness=grades.nativeness.get(ad),
        )
        for ad in entry.shown
    )
    return JudgedAuction(auction, entry.answered_at, entry.revision, ads, grades.quality)


def _grades(judgement: Judgement) -> Grades:
    return Grades(
        {ad.ad_id: ad.relevance for ad in judgement.ads if ad.relevance is not None},
        {ad.ad_id: ad.nativeness for ad in judgement.ads if ad.nativeness is not None},
        judgement.answer_quality,
    )
