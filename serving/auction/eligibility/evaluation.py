"""The result of one evaluation: a code per campaign, which tells whether it may bid, or the first rule against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Micros
from serving.auction.eligibility.creatives import CreativeRows
from serving.auction.eligibility.rules import Reason
from serving.auction.eligibility.slots import FrozenCampaigns
from serving.campaigns.types import Campaign, Creative

CAMPAIGN_REASONS = tuple(reason for reason in Reason if not reason.of_creative)
UNUSED = 0
"""The code of a free slot."""
CODES = {reason: code for code, reason in enumerate(CAMPAIGN_REASONS, start=1)}
"""The codes of excluded campaigns, in the order of the rules."""
ELIGIBLE = len(CAMPAIGN_REASONS) + 1
"""The code of a campaign that may bid, higher than all others."""
Codes = NDArray[np.uint8]


class Eligible(NamedTuple):
    """One creative that may enter the prompt, at its bid in this auction."""

    campaign: Campaign
    creative: Creative
    bid: Micros


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Codes by slot. `admits` and `eligible` are valid until the index changes, all else stays as it is.

    `frame` are the codes of a similar evaluation, shared by many: `changed` are the slots whose codes differ from it.
    `counts` has the exclusions by reason: campaigns, or creatives where the reason is the creative's own.
    `campaign_count` and `eligible_count` are numbers of campaigns and of creatives. `capped` are the creatives that
    have reached a frequency cap, `segments` what bids are adjusted to.
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

    def __len__(self) -> int:
        return self.eligible_count

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
