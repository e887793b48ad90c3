"""Interactions and judgements of one partition brought together, each pair once: pure, without files and clocks.

Judgements become rows strictly in their order, so that one offset says which are done. A judgement whose interaction
has not been read yet holds those behind it; interactions without judgement are remembered by their offset.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import msgspec

from streaming.codec import decode, encode
from streaming.events import Interaction, Judgement
from streaming.shards.manifest import Progress, Span, Totals, spans
from streaming.shards.row import Row
from streaming.topics import INTERACTIONS

KNOWN_BYTES = 350
"""What a remembered row takes beside its interaction."""
Find = Callable[[Collection[str]], Mapping[str, Row]]
"""Looks for auctions among the rows that were written before."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An interaction without judgement, as it came: bytes take a third of the room of objects."""

    offset: int
    occurred_at: datetime
    value: bytes


@dataclass(frozen=True, slots=True)
class _Held:
    offset: int
    judgement: Judgement
    look: int


@dataclass(slots=True)
class _Known:
    """The newest row of an auction. `packed` is its interaction, compressed: few are asked for again."""

    occurred_at: datetime
    packed: bytes
    revision: int
    clicks: int

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return len(self.packed) + KNOWN_BYTES

    def event(self) -> Interaction:
        return _interaction(zlib.decompress(self.packed))


class Pairing:
    """The state of one partition since its last manifest. `find` is asked only about auctions that may have been
    written and forgotten: after a start, for late ones, and past the newest ones, of which `remembered` bytes are kept.
    `written_until` is the time of the latest auction in the shards."""

    def __init__(self, progress: Progress, written_until: datetime | None, find: Find, remembered: int) -> None:
        self._start = progress
        self._find = find
        self._remembered = remembered
        self._forgotten_until = written_until
        self._latest = self._mark = progress.watermark
        self._read = progress.start
        self._judged = progress.judgements
        self._waiting: dict[str, _Waiting] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._known_bytes = 0
        self._held: deque[_Held] = deque()
        self._absent: set[str] = set()
        self._fresh: list[tuple[int, Interaction, bytes]] = []
        self.rows: list[Row] = []
        self.added = Totals()
        self.orphans: list[str] = []

    @property
    def waiting(self) -> int:
        """Interactions without a judgement."""
        return len(self._waiting)

    @property
    def blocked(self) -> bool:
        """Whether a judgement waits for its interaction."""
        return bool(self._held)

    def interaction(self, offset: int, event: Interaction, value: bytes) -> None:
        """An interaction was read."""
        if offset < self._start.interactions and not any(a <= offset < b for a, b in self._start.waiting):
            return  # before the start, and done
        if self._latest is None or event.occurred_at > self._latest:
            self._latest = event.occurred_at
        if event.auction_id not in self._waiting and event.auction_id not in self._known:
            self._fresh.append((offset, event, value))

    def judgement(self, offset: int, judgement: Judgement, look: int) -> None:
        """A judgement was read, after so many looks at the ends."""
        if offset >= self._judged:
            self._held.append(_Held(offset, judgement, look))

    def passed(self, interactions: int | None, judgements: int | None) -> None:
        """How far reading is in both topics; None: not known to have moved."""
        self._read = max(self._read, interactions or 0)
        self._judged = max(self._judged, judgements or 0)

    def pair(self, *, complete: bool, look: int) -> None:
        """Turns what is there into rows. `complete` says that interactions were read to their end at the last look."""
        self._admit()
        self._recall({h.judgement.auction_id for h in self._held} - self._waiting.keys() - self._known.keys())
        while self._held:
            head = self._held[0]
            auction = head.judgement.auction_id
            if auction not in self._waiting and auction not in self._known:
                if not complete or head.look >= look:
                    break
                self.orphans.append(auction)
                self._absent.discard(auction)
                self.added += Totals(judgements=1, orphans=1)
            else:
                self._take(head.judgement)
            self._held.popleft()

    def progress(self, caught_up_to: datetime | None) -> Progress:
        """How far it is when `rows` are written. `caught_up_to` is an event time up to which nothing more is expected,
        where both topics were read to their ends."""
        oldest = min((waiting.occurred_at for waiting in self._waiting.values()), default=None)
        if self._held:
            oldest = min([h.judgement.answered_at for h in self._held] + ([oldest] if oldest else []))
        marks = [oldest] if oldest is not None else [self._latest, caught_up_to]
        known = [mark for mark in (*marks, self._mark) if mark is not None]
        return Progress(
            interactions=max(self._read, self._start.interactions),
            waiting=self._spans(),
            judgements=self._held[0].offset if self._held else self._judged,
            watermark=max(known, default=None),
        )

    def written(self, progress: Progress) -> None:
        """What `rows` and `added` held is in the shards, with that progress."""
        self._mark = progress.watermark
        self.rows, self.added, self.orphans = [], Totals(), []
        while self._known_bytes > self._remembered:
            _, gone = self._known.popitem(last=False)
            self._known_bytes -= gone.size
            if self._forgotten_until is None or gone.occurred_at > self._forgotten_until:
                self._forgotten_until = gone.occurred_at

    def _admit(self) -> None:
        """New interactions wait from now on, unless they are repetitions of what was written."""
        fresh, self._fresh = self._fresh, []
        until = self._forgotten_until
        if until is not None:
            self._recall({event.auction_id for _, event, _ in fresh if event.occurred_at <= until})
        for offset, event, value in fresh:
            if event.auction_id not in self._known and event.auction_id not in self._waiting:
                self._waiting[event.auction_id] = _Waiting(offset, event.occurred_at, value)

    def _recall(self, auctions: Collection[str]) -> None:
        unknown = [auction for auction in auctions if auction not in self._known and auction not in self._absent]
        if unknown and self._forgotten_until is not None:
            self._absent.update(unknown)
            for auction, row in self._find(unknown).items():
                event = row.interaction
                self._absent.discard(auction)
                self._remember(auction, event.occurred_at, encode(event), row.judgement.revision, row.clicks)

    def _take(self, judgement: Judgement) -> None:
        auction = judgement.auction_id
        if (first := self._waiting.pop(auction, None)) is not None:
            event, known = _interaction(first.value), self._remember(auction, first.occurred_at, first.value, -1, 0)
            counts = Totals(judgements=1, rows=1, auctions=1)
        else:
            known = self._known[auction]
            if judgement.revision <= known.revision:
                self.added += Totals(judgements=1, repeated=1)
                return
            event = known.event()
            counts = Totals(judgements=1, rows=1)
        row = Row(event, judgement)
        self.rows.append(row)
        self.added += msgspec.structs.replace(counts, clicks=row.clicks - known.clicks)
        known.revision, known.clicks = judgement.revision, row.clicks
        self._absent.discard(auction)
        self._known.move_to_end(auction)

    def _remember(self, auction: str, at: datetime, value: bytes, revision: int, clicks: int) -> _Known:
        known = self._known[auction] = _Known(at, zlib.compress(value, 1), revision, clicks)
        self._known_bytes += known.size
        return known

    def _spans(self) -> tuple[Span, ...]:
        """Offsets that wait: those read, and those of the start that were not reached again yet."""
        unread = [(max(a, self._read), b) for a, b in self._start.waiting if b > self._read]
        return spans(sorted(waiting.offset for waiting in self._waiting.values())) + tuple(unread)


def _interaction(value: bytes) -> Interaction:
    event = decode(INTERACTIONS, value)
    assert isinstance(event, Interaction)
    return event
