"""The rows of all creatives and their states.

The creatives of a campaign occupy a run of consecutive rows, so that the rows of all eligible campaigns are listed
without a loop. `serving.auction.retrieval` files creatives under the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId
from serving.auction.eligibility.columns import grown
from serving.auction.eligibility.rules import Reason
from serving.campaigns.types import Creative, ReviewState


class CreativeState(IntEnum):
    """What decides on a creative of an eligible campaign; stored in one byte."""

    APPROVED = 0
    PENDING = 1
    REJECTED = 2
    CAPPED = 3
    """Approved, and the reader has seen it as often as its cap allows."""


CREATIVE_REASONS = {
    CreativeState.PENDING: Reason.REVIEW_PENDING,
    CreativeState.REJECTED: Reason.REVIEW_REJECTED,
    CreativeState.CAPPED: Reason.FREQUENCY_CREATIVE,
}
"""Why a state excludes a creative; an approved one is eligible."""
_STATES = {
    ReviewState.APPROVED: CreativeState.APPROVED,
    ReviewState.PENDING: CreativeState.PENDING,
    ReviewState.REJECTED: CreativeState.REJECTED,
}


class CreativeRows:
    """Rows of creatives by slot of their campaign; freed runs are reused for campaigns with as many creatives."""

    def __init__(self) -> None:
        self.first_row_C = np.zeros(64, np.int64)
        self._count_C = np.zeros(64, np.int64)
        self._reviews_R = np.zeros(0, np.uint8)
        self._row_of: dict[AdId, int] = {}
        self._free_runs: dict[int, list[int]] = {}
        self._size = 0

    def put(self, slot: int, creatives: Sequence[Creative], former: Sequence[Creative] = ()) -> None:
        """File the creatives of a campaign in place of its `former` ones."""
        if slot >= len(self.first_row_C):
            self.first_row_C = grown(self.first_row_C, slot + 1)
            self._count_C = grown(self._count_C, slot + 1)
        for creative in former:
            self._row_of.pop(creative.id, None)
        if self._count_C[slot] != len(creatives):
            self._free(slot)
            self.first_row_C[slot], self._count_C[slot] = self._take(len(creatives)), len(creatives)
        for row, creative in zip(self.rows_of(slot), creatives, strict=True):
            self._row_of[creative.id] = row
            self._reviews_R[row] = _STATES[creative.review]

    def remove(self, slot: int, former: Sequence[Creative]) -> None:
        """Free the rows of a campaign."""
        for creative in former:
            self._row_of.pop(creative.id, None)
        self._free(slot)

    def rows_of(self, slot: int) -> range:
        """Return the rows of one campaign's creatives, in their order."""
        first = int(self.first_row_C[slot])
        return range(first, first + int(self._count_C[slot]))

    def list_rows(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of the campaigns' creatives, campaign by campaign, and the slot of each row."""
        counts = self._count_C[slots]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        rows_M = np.arange(total) + np.repeat(self.first_row_C[slots] - (ends - counts), counts)
        return rows_M, np.repeat(slots, counts)

    def states(self, rows_M: NDArray[np.int64], capped: Iterable[AdId]) -> NDArray[np.uint8]:
        """Return the state of each row, where the creatives `capped` have reached a frequency cap."""
        states_M = self._reviews_R[rows_M]
        for creative_id in capped:
            row = self._row_of.get(creative_id)
            if row is not None:
                states_M[(rows_M == row) & (states_M == CreativeState.APPROVED)] = CreativeState.CAPPED
        return states_M

    def _take(self, length: int) -> int:
        free = self._free_runs.get(length)
        if free:
            return free.pop()
        first, self._size = self._size, self._size + length
        if self._size > len(self._reviews_R):
            self._reviews_R = grown(self._reviews_R, self._size)
        return first

    def _free(self, slot: int) -> None:
        length = int(self._count_C[slot])
        if length:
            self._free_runs.setdefault(length, []).append(int(self.first_row_C[slot]))
        self._count_C[slot] = 0
