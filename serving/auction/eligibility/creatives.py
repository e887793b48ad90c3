"""The rows of all creatives, their reviews and their campaigns.

The creatives of a campaign occupy a run of consecutive rows. `serving.auction.retrieval` files creatives under the same
rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId
from serving.auction.eligibility.columns import grown
from serving.auction.eligibility.rules import Reason
from serving.campaigns.types import Creative, ReviewState


class Review(IntEnum):
    """A creative's review in one byte, and its column in `CreativeRows.reviews_SC`."""

    APPROVED = 0
    PENDING = 1
    REJECTED = 2


REVIEW_REASONS = {Review.PENDING: Reason.REVIEW_PENDING, Review.REJECTED: Reason.REVIEW_REJECTED}
"""Why a review excludes a creative of an eligible campaign."""
_REVIEWS = {
    ReviewState.APPROVED: Review.APPROVED,
    ReviewState.PENDING: Review.PENDING,
    ReviewState.REJECTED: Review.REJECTED,
}


class CreativeRows:
    """Rows of creatives by slot of their campaign; freed runs are reused for campaigns with as many creatives.

    `owner_R` is the slot of each row, `first_row_C` the first row of each slot, `reviews_SC` how many creatives a slot
    has in each review state. `version` grows with every change.
    """

    def __init__(self) -> None:
        self.version = 0
        self.owner_R = np.zeros(0, np.int32)
        self.reviews_SC = np.zeros((len(Review), 64))
        self.first_row_C = np.zeros(64, np.int64)
        self._count_C = np.zeros(64, np.int64)
        self._reviews_R = np.zeros(0, np.uint8)
        self._row_of: dict[AdId, int] = {}
        self._free_runs: dict[int, list[int]] = {}
        self._size = 0

    def put(self, slot: int, creatives: Sequence[Creative], former: Sequence[Creative] = ()) -> None:
        """File the creatives of a campaign in place of its `former` ones."""
        self.version += 1
        if slot >= len(self.first_row_C):
            self.first_row_C = grown(self.first_row_C, slot + 1)
            self._count_C = grown(self._count_C, slot + 1)
            self.reviews_SC = np.ascontiguousarray(grown(self.reviews_SC.T, slot + 1).T)
        for creative in former:
            self._row_of.pop(creative.id, None)
        if self._count_C[slot] != len(creatives):
            self._free(slot)
            self.first_row_C[slot], self._count_C[slot] = self._take(len(creatives)), len(creatives)
        self.reviews_SC[:, slot] = 0
        for row, creative in zip(self.rows_of(slot), creatives, strict=True):
            review = _REVIEWS[creative.review]
            self._row_of[creative.id] = row
            self._reviews_R[row], self.owner_R[row] = review, slot
            self.reviews_SC[review, slot] += 1

    def remove(self, slot: int, former: Sequence[Creative]) -> None:
        """Free the rows of a campaign."""
        self.version += 1
        for creative in former:
            self._row_of.pop(creative.id, None)
        self.reviews_SC[:, slot] = 0
        self._free(slot)

    def rows_of(self, slot: int) -> range:
        """Return the rows of one campaign's creatives, in their order."""
        first = int(self.first_row_C[slot])
        return range(first, first + int(self._count_C[slot]))

    def rows_of_slots(self, slots: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the rows of the creatives of several campaigns."""
        counts = self._count_C[slots]
        before = np.cumsum(counts) - counts
        rows: NDArray[np.int64] = np.repeat(self.first_row_C[slots] - before, counts) + np.arange(int(counts.sum()))
        return rows

    def approved(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which creatives are approved, shape of `rows`."""
        approved: NDArray[np.bool_] = self._reviews_R[rows] == Review.APPROVED
        return approved

    def rows_of_ids(self, ids: Collection[AdId]) -> NDArray[np.int64]:
        """Return the rows of the creatives among `ids` that are in the index."""
        return np.array([self._row_of[one] for one in ids if one in self._row_of], np.int64)

    def _take(self, length: int) -> int:
        free = self._free_runs.get(length)
        if free:
            return free.pop()
        first, self._size = self._size, self._size + length
        if self._size > len(self._reviews_R):
            self._reviews_R = grown(self._reviews_R, self._size)
            self.owner_R = grown(self.owner_R, self._size)
        return first

    def _free(self, slot: int) -> None:
        length = int(self._count_C[slot])
        if length:
            self._free_runs.setdefault(length, []).append(int(self.first_row_C[slot]))
        self._count_C[slot] = 0
