"""The standing of all campaigns for requests of one kind: computed once, then kept up to date slot by slot.

What distinguishes the requests of one kind (their words, their reader, the auction's pacing) is applied to a copy by
`serving.auction.eligibility.index`, so that the time of a request hardly grows with the number of campaigns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mechanism.types import Micros
from serving.auction.eligibility.columns import CampaignColumns, micros_since_epoch
from serving.auction.eligibility.creatives import CreativeRows
from serving.auction.eligibility.evaluation import CODES, ELIGIBLE, UNUSED, Codes
from serving.auction.eligibility.funds import AccountFunds
from serving.auction.eligibility.postings import CampaignPostings, Mask, Slots
from serving.auction.eligibility.request import PlacementRequest
from serving.auction.eligibility.rules import Reason

RENEWED = 32
"""A frame is renewed when more than one in so many slots has changed since."""


class Segment(NamedTuple):
    """What requests of one kind have in common. `countable`: the reader's impressions can be counted."""

    currency: str
    segments: tuple[tuple[str, ...], ...]
    blocked_categories: frozenset[str]
    blocked_advertisers: frozenset[str]
    consent: bool
    countable: bool
    floor_micros: Micros
    floor_missing: bool

    @classmethod
    def of(cls, request: PlacementRequest, countable: bool) -> Segment:
        """Return the segment of a request."""
        return cls(
            request.currency,
            tuple(request.segments.values()),
            request.publisher_blocked_categories,
            request.publisher_blocked_advertisers,
            request.consent,
            request.consent and countable,
            request.floor_micros,
            request.floor_missing,
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """The codes of a moment, which nothing changes any more, and the sums over them.

    `counts` by code, shape (ELIGIBLE + 1,); `reviews` are whole numbers of the eligible campaigns' creatives by review.
    """

    codes: Codes
    counts: NDArray[np.int64]
    reviews: NDArray[np.float64]
    version: int


class Standing:
    """Codes by slot for one segment, before the rules on the reader's own blocks and caps, and before pacing.

    `codes` excludes every campaign with keywords, `lifted` none for its keywords. `bids` are adjusted to the segment.
    """

    def __init__(self, lifted: Codes, bids: NDArray[np.int64], columns: CampaignColumns, position: int) -> None:
        self.lifted = lifted
        self.codes = np.where(columns.any_keyword[: len(lifted)], lifted, np.minimum(lifted, CODES[Reason.KEYWORD]))
        self.bids = bids
        self.position = position
        self._frame: Frame | None = None
        self._drift = 0

    def patch(
        self, slots: Slots, lifted: Codes, bids: NDArray[np.int64], columns: CampaignColumns, position: int
    ) -> None:
        """Write the new codes and bids of `slots`, which may lie beyond the present ones."""
        self.position = position
        if not slots.size:
            return
        if (missing := int(slots.max()) + 1 - len(self.codes)) > 0:
            self.codes = np.concatenate([self.codes, np.full(missing, UNUSED, np.uint8)])
            self.lifted = np.concatenate([self.lifted, np.full(missing, UNUSED, np.uint8)])
            self.bids = np.concatenate([self.bids, np.zeros(missing, np.int64)])
            self._frame = None
        elif self._frame is not None and self._frame.codes is self.codes:
            self.codes = self.codes.copy()
        self.lifted[slots], self.bids[slots] = lifted, bids
        self.codes[slots] = np.where(columns.any_keyword[slots], lifted, np.minimum(lifted, CODES[Reason.KEYWORD]))
        self._drift += len(slots)

    def frame(self, creatives: CreativeRows) -> Frame:
        """Return a frame near the present codes."""
        if self._frame is None or self._frame.version != creatives.version or RENEWED * self._drift > len(self.codes):
            counts = np.bincount(self.codes, minlength=ELIGIBLE + 1)
            reviews = creatives.reviews_SC[:, : len(self.codes)] @ (self.codes == ELIGIBLE).astype(np.float64)
            self._frame, self._drift = Frame(self.codes, counts, reviews, creatives.version), 0
        return self._frame


def lifted_codes(
    request: PlacementRequest,
    countable: bool,
    slots: Slots | None,
    bids: NDArray[np.int64],
    columns: CampaignColumns,
    postings: CampaignPostings,
    funds: AccountFunds,
) -> Codes:
    """Return the codes of `slots` (None: of all) for the request's segment, as if every keyword were in the query.

    `bids` are the adjusted bids of these slots.
    """
    admitted = columns.used[: len(bids)] if slots is None else columns.used[slots]
    passed, meaning = admitted.astype(np.uint8), [UNUSED]
    for reason, mask in _masks(request, countable, slots, bids, columns, postings, funds):
        meaning.append(CODES[reason])
        admitted = admitted & mask
        passed += admitted
    return np.array([*meaning, ELIGIBLE], np.uint8)[passed]


def _masks(
    request: PlacementRequest,
    countable: bool,
    slots: Slots | None,
    bids: NDArray[np.int64],
    columns: CampaignColumns,
    postings: CampaignPostings,
    funds: AccountFunds,
) -> Iterator[tuple[Reason, Mask]]:
    """Yield a mask per rule in the order of `Reason`: True where it admits."""
    size = len(bids)
    these = slice(size) if slots is None else slots
    now = micros_since_epoch(request.now)
    yield Reason.PAUSED, columns.unpaused[these]
    yield Reason.ENDED, columns.unended[these] & (columns.ends[these] > now)
    yield Reason.NOT_STARTED, columns.starts[these] <= now
    yield Reason.OUTSIDE_DAYPART, columns.open_now[these]
    yield Reason.NO_CREATIVE, columns.with_creatives[these]
    yield Reason.CURRENCY, columns.currency[these] == columns.currency_number(request.currency)
    least = np.maximum(bids, 1)  # what is spent excludes even a bid of 0
    price = least + columns.accrued[these]
    yield Reason.BUDGET_TOTAL, columns.total_left[these] >= price
    yield Reason.BUDGET_DAILY, columns.day_left[these] >= price
    if (covered := funds.covering(columns.account[these], least)) is not None:
        yield Reason.FUNDS, covered | columns.house[these]
    for reason, dimension, untargeted in (
        (Reason.COUNTRY, "country", columns.any_country),
        (Reason.LANGUAGE, "language", columns.any_language),
        (Reason.CATEGORY, "category", columns.any_category),
        (Reason.PLACEMENT, "placement", columns.any_placement),
    ):
        yield reason, untargeted[these] | postings.targets[dimension].members(request.segments[dimension], slots, size)
    for reason, codes, blocked in (
        (Reason.BLOCKED_BY_ADVERTISER, request.segments["category"], postings.blocking_category),
        (Reason.BLOCKED_BY_ADVERTISER, request.segments["placement"], postings.blocking_placement),
        (Reason.BLOCKED_BY_PUBLISHER, request.publisher_blocked_categories, postings.in_category),
        (Reason.BLOCKED_BY_PUBLISHER, request.publisher_blocked_advertisers, postings.of_advertiser),
    ):
        if codes:
            yield reason, ~blocked.members(codes, slots, size)
    if not request.consent:
        yield Reason.CONSENT_MISSING, columns.uncapped[these]
    elif not countable:
        yield Reason.FREQUENCY_UNCOUNTED, columns.uncapped[these]
    # House ads cost nothing, so that no floor holds for them.
    if request.floor_missing:
        yield Reason.FLOOR_CURRENCY, columns.house[these]
    if request.floor_micros > 0:
        yield Reason.BID_BELOW_FLOOR, (bids >= request.floor_micros) | columns.house[these]


class SteadyTime:
    """The times around the last request's between which no flight begins or ends."""

    def __init__(self) -> None:
        self._now: int | None = None
        self._from = self._until = 0

    def narrow(self, starts: int, ends: int) -> None:
        """Account for a flight that was put."""
        if self._now is not None:
            for bound in (starts, ends):
                if bound <= self._now:
                    self._from = max(self._from, bound)
                else:
                    self._until = min(self._until, bound)

    def crossed(self, now: datetime, columns: CampaignColumns, size: int) -> Slots:
        """Move to `now` and return the slots whose flights began or ended between, in either direction of time."""
        at = micros_since_epoch(now)
        if self._now is not None and self._from <= at < self._until:
            self._now = at
            return np.empty(0, np.int32)
        starts, ends = columns.starts[:size], columns.ends[:size]
        low, high = (at, at) if self._now is None else (min(at, self._now), max(at, self._now))
        between = ((low < starts) & (starts <= high)) | ((low < ends) & (ends <= high))
        self._now = at
        past = [int(times[times <= at].max(initial=np.iinfo(np.int64).min)) for times in (starts, ends)]
        to_come = [int(times[times > at].min(initial=np.iinfo(np.int64).max)) for times in (starts, ends)]
        self._from, self._until = max(past), min(to_come)
        return np.flatnonzero(between).astype(np.int32)
