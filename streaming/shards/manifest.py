"""What a partition's shards are, and how far the topics are in them: one record, replaced as a whole.

A shard that no manifest lists does not exist for anybody; offsets and shards change in the same step, and so nothing is
lost or doubled by a writer that dies between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec
from msgspec import Struct

Span = tuple[int, int]
"""Offsets from the first to before the second."""


class Shard(Struct, frozen=True, kw_only=True):
    """One file. `judgements` are the offsets that its rows came from (within them, other days' and repetitions were
    left out), `first` and `last` the earliest and latest auction, `lowest` and `highest` the range of auction ids."""

    path: str
    day: str
    level: int = 0
    rows: int
    usable: int
    clicks: int
    first: datetime
    last: datetime
    lowest: str
    highest: str
    judgements: tuple[Span, ...]
    bytes: int
    sha256: str


class Totals(Struct, frozen=True, kw_only=True):
    """Counts since the beginning. They reconcile: `judgements` read = `rows` written + `repeated` + `orphans`, and rows
    in the shards = `rows` - `superseded`.

    `orphans` are judgements whose interaction the log no longer has, `superseded` rows that a newer revision replaced
    when shards were merged, `erased` rows in shards that lost their reader's part on request. `auctions` and `clicks`
    count each auction once, at its newest revision.
    """

    judgements: int = 0
    rows: int = 0
    repeated: int = 0
    orphans: int = 0
    superseded: int = 0
    auctions: int = 0
    clicks: int = 0
    erased: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class Removed(Struct, frozen=True):
    """A file that no reader finds any more, and since when; it goes once those who found it are done."""

    path: str
    at: datetime


class Progress(Struct, frozen=True, kw_only=True):
    """How far a partition is. `interactions` were read up to that offset; those at `waiting` offsets have no judgement
    yet. `judgements` up to that offset are in the shards. `watermark` is the event time up to which every interaction
    that had arrived is in; None before the first."""

    interactions: int = 0
    waiting: tuple[Span, ...] = ()
    judgements: int = 0
    watermark: datetime | None = None

    @property
    def start(self) -> int:
        """The offset at which reading interactions has to begin."""
        return self.waiting[0][0] if self.waiting else self.interactions


class Manifest(Struct, frozen=True, kw_only=True):
    """A partition's manifest. `erased` are the requests (`Erasure.mark`) that no shard listed here holds
    anything against."""

    version: int = 1
    partition: int
    generation: int = 0
    written_at: datetime | None = None
    progress: Progress = Progress()
    totals: Totals = Totals()
    shards: tuple[Shard, ...] = ()
    removed: tuple[Removed, ...] = ()
    erased: tuple[str, ...] = ()


def spans(offsets: Iterable[int]) -> tuple[Span, ...]:
    """Ascending offsets as spans."""
    found: list[list[int]] = []
    for offset in offsets:
        if found and found[-1][1] == offset:
            found[-1][1] = offset + 1
        else:
            found.append([offset, offset + 1])
    return tuple((first, end) for first, end in found)


def merged(several: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in any order as few as possible."""
    found: list[Span] = []
    for first, end in sorted(several):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((first, end))
    return tuple(found)


def encode(manifest: Manifest) -> bytes:
    """The manifest as JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1)


def decode(data: bytes) -> Manifest:
    """Raises msgspec.DecodeError or ValidationError."""
    return msgspec.json.decode(data, type=Manifest)
