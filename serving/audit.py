"""The record of each auction: who took part at which bid, how likely each was at every marker, what was shown.

Kept in memory for the newest answers. It holds neither the question nor the profile, only whether one was used.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections import OrderedDict

import msgspec

from mechanism.types import AdId, Micros


class CandidateRecord(msgspec.Struct, frozen=True):
    """One ad that took part; `relevance` is the cosine that brought it in."""

    ad_id: AdId
    title: str
    advertiser: str
    category: str
    bid_micros: Micros
    relevance: float


class MarkerRecord(msgspec.Struct, frozen=True):
    """The policy's distribution over the candidates where it opened a marker (its propensities)."""

    chosen: AdId
    exact: bool
    probabilities: dict[AdId, float]


class ShownRecord(msgspec.Struct, frozen=True):
    """One ad that the reader saw; a click is charged once under `click_id`."""

    ad_id: AdId
    click_id: str
    bid_micros: Micros


class AuctionRecord(msgspec.Struct, frozen=True):
    """One auction. `generations` is 1; one more where an answer without ads replaced a failed one. `left_out` were
    written by the policy past the request's maximum, `faults` are kinds of broken markers that no reader saw."""

    auction_id: str
    created: int
    model: str
    model_digest: str
    seed: int
    currency: str
    profile_used: bool
    generations: int
    candidates: list[CandidateRecord]
    markers: list[MarkerRecord]
    shown: list[ShownRecord]
    left_out: list[AdId]
    faults: list[str]
    logprob: float
    tokens: int
    seconds: float


class AuditTrail:
    """The newest `size` records by auction id."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._records: OrderedDict[str, AuctionRecord] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, record: AuctionRecord) -> None:
        """Keeps a record and forgets the oldest past the size."""
        with self._lock:
            self._records[record.auction_id] = record
            while len(self._records) > self._size:
                self._records.popitem(last=False)

    def get(self, auction_id: str) -> AuctionRecord | None:
        """The record of an auction, None where it is unknown or forgotten."""
        with self._lock:
            return self._records.get(auction_id)


def new_auction_id() -> str:
    """A UUIDv7 (RFC 9562): sorts by time of creation to the millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    return str(uuid.UUID(int=value | 0b10 << 62 | secrets.randbits(62)))
