"""The result of one evaluation: a code per campaign, which tells whether it may bid, or the first rule against it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Micros
from serving.auction.eligibility.creatives import CreativeRows, Review
from serving.auction.eligibility.postings import Slots
from serving.auction.eligibility.rules import Reason
from serving.auction.eligibility.slots import FrozenCampaigns
from serving.campaigns.types import Campaign, Creative, Priority

CAMPAIGN_REASONS = tuple(reason for reason in Reason if not reason.of_creative)
UNUSED = 0
"""The code of a free slot."""
CODES = {reason: code for code, reason in enumerate(CAMPAIGN_REASONS, start=1)}
"""The codes of excluded campaigns, in the order of the rules."""
ELIGIBLE = len(CAMPAIGN_REASONS) + 1
"""The code of a campaign that may bid, higher than all others."""
FEW = 2_048
"""Eligible creatives of a priority that a search compares one by one."""
Codes = NDArray[np.uint8]


class Eligible(NamedTuple):
    """One creative that may enter the prompt, at its bid in this auction."""

    campaign: Campaign
    creative: Creative
    bid: Micros


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Codes by slot. `tiers`, `admits`, `eligible` and `bids` are valid until the index changes; all else is fixed.

    `frame` are the codes of a similar evaluation, shared by many: `changed` are the slots whose codes differ from it.
    `counts` has the exclusions by reason: campaigns, or creatives where the reason is the creative's own.
    `campaign_count` and `eligible_count` are numbers of campaigns and of creatives. `capped` are the creatives that
    have reached a frequency cap, `segments` what bids are adjusted to. `ranked` are the slots of the campaigns that are
    not standard. `few_rows` are all rows of the eligible campaigns' creatives where a tier has so few.
    """

    codes: Codes
    frame: Codes
    changed: NDArray[np.int32]
    campaigns: FrozenCampaigns
    bids: NDArray[np.int64]
    capped: frozenset[AdId]
    segments: Mapping[str, tuple[str, ...]]
    counts: Mapping[Reason, int]
    campaign_count: int
    eligible_count: int
    creatives: CreativeRows
    ranked: Mapping[Priority, Slots]
    few_rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.eligible_count

    def tiers(self) -> Iterator[tuple[Priority, Evaluation]]:
        """Yield the eligible creatives of each priority that has any, the highest first, each to be searched alone."""
        if not self.ranked:
            yield Priority.STANDARD, self
            return
        tiers = {priority: self._tier(slots) for priority, slots in self.ranked.items()}
        rest = self.codes.copy()
        for slots in self.ranked.values():
            rest[slots] = UNUSED
        count = len(self) - sum(map(len, tiers.values()))
        tiers[Priority.STANDARD] = replace(self, codes=rest, eligible_count=count)
        for priority in reversed(Priority):
            if priority in tiers and len(tiers[priority]):
                yield priority, tiers[priority]

    def _tier(self, slots: Slots) -> Evaluation:
        codes, creatives = np.full_like(self.codes, UNUSED), self.creatives
        codes[slots] = self.codes[slots]
        eligible = slots[codes[slots] == ELIGIBLE]
        count = int(creatives.reviews_SC[Review.APPROVED, eligible].sum()) - count_capped(codes, self.capped, creatives)
        few_rows = creatives.rows_of_slots(eligible) if count <= FEW else None
        return replace(self, codes=codes, eligible_count=count, few_rows=few_rows)

    def admits(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which creatives are eligible, shape of `rows`."""
        admitted: NDArray[np.bool_] = self.codes[self.creatives.owner_R[rows]] == ELIGIBLE
        admitted &= self.creatives.approved(rows)
        if self.capped:
            admitted &= ~np.isin(rows, self.creatives.rows_of_ids(self.capped))
        return admitted

    def eligible(self, rows: NDArray[np.int64]) -> list[Eligible]:
        """Return eligible creatives by their rows."""
        slots = self.creatives.owner_R[rows]
        places = rows - self.creatives.first_row_C[slots]
        found = []
        for slot, place, bid in zip(slots.tolist(), places.tolist(), self.bids[slots].tolist(), strict=True):
            campaign = self.campaigns[slot]
            assert campaign is not None, "an eligible creative belongs to a campaign"
            found.append(Eligible(campaign, campaign.creatives[place], bid))
        return found


def count_capped(codes: Codes, capped: Collection[AdId], creatives: CreativeRows) -> int:
    """Return how many approved creatives of eligible campaigns are among `capped`."""
    if not capped:
        return 0
    rows = creatives.rows_of_ids(capped)
    at_stake = codes[creatives.owner_R[rows]] == ELIGIBLE
    return int(np.count_nonzero(at_stake & creatives.approved(rows)))
