"""The outcome of one evaluation of the index: eligible creatives with their bids, counts, and reasons when asked for.

It keeps the masks that the rules left behind and the campaign records of that moment, so later changes of the index do
not reach it; reasons and counts are worked out of them only on demand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.types import Micros
from serving.auction.eligibility.columns import CAPPED, PENDING, REJECTED
from serving.auction.eligibility.reasons import Reason
from serving.auction.eligibility.rules import Verdict
from serving.campaigns.types import Campaign, Creative

CREATIVE_REASONS = {
    PENDING: Reason.REVIEW_PENDING,
    REJECTED: Reason.REVIEW_REJECTED,
    CAPPED: Reason.FREQUENCY_CREATIVE,
}
"""Why a creative in a state stays out; the states that are not here admit it."""


@dataclass(frozen=True, slots=True)
class Eligible:
    """One creative that may enter the prompt, at its bid in this auction."""

    campaign: Campaign
    creative: Creative
    bid: Micros


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`rows_E` are the rows of the eligible creatives, `owners_E` the slots of their campaigns. `trail` holds, after
    each rule, which slots were still in; `bids`, `first_rows` and `used` are by slot. `states_M` judges the creatives
    of the eligible campaigns, run by run."""

    rows_E: NDArray[np.int64]
    owners_E: NDArray[np.int64]
    campaigns: tuple[Campaign | None, ...]
    bids: NDArray[np.int64]
    first_rows: NDArray[np.int64]
    used: NDArray[np.bool_]
    trail: tuple[tuple[Reason, NDArray[np.bool_]], ...]
    slots: NDArray[np.int64]
    states_M: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows_E)

    def eligible(self, position: int) -> Eligible:
        """The eligible creative at a position of `rows_E`."""
        slot = int(self.owners_E[position])
        return Eligible(self._campaign(slot), self.creative(position), int(self.bids[slot]))

    def creative(self, position: int) -> Creative:
        """The creative alone: cheap enough to order many by their ids."""
        slot = int(self.owners_E[position])
        return self._campaign(slot).creatives[int(self.rows_E[position]) - int(self.first_rows[slot])]

    def counts(self) -> dict[Reason, int]:
        """How many campaigns, or for the creatives' own reasons creatives, each reason excluded; only those above 0."""
        found: dict[Reason, int] = {}
        before = int(np.count_nonzero(self.used))
        for reason, alive in self.trail:
            after = int(np.count_nonzero(alive))
            if after < before:
                found[reason] = before - after
            before = after
        by_state = np.bincount(self.states_M, minlength=CAPPED + 1)
        return found | {reason: int(by_state[s]) for s, reason in CREATIVE_REASONS.items() if by_state[s]}

    def verdicts(self) -> Iterator[Verdict]:
        """A verdict for every creative, and for every campaign without any, in the order of the slots. Slow: it walks
        through all campaigns."""
        states = iter(self.states_M.tolist())
        reasons = self._campaign_reasons()
        for slot in np.flatnonzero(self.used).tolist():
            campaign, bid, reason = self._campaign(slot), int(self.bids[slot]), reasons.get(slot)
            if not campaign.creatives:
                yield Verdict(campaign.id, "", bid, reason)
            for creative in campaign.creatives:
                own = reason or CREATIVE_REASONS.get(next(states))
                yield Verdict(campaign.id, creative.id, bid, own)

    def _campaign_reasons(self) -> dict[int, Reason]:
        found: dict[int, Reason] = {}
        before = self.used
        for reason, alive in self.trail:
            if alive is not before:
                found.update(dict.fromkeys(np.flatnonzero(before & ~alive).tolist(), reason))
            before = alive
        return found

    def _campaign(self, slot: int) -> Campaign:
        campaign = self.campaigns[slot]
        assert campaign is not None, "a used slot holds a campaign"
        return campaign


def creative_rows(
    slots: NDArray[np.int64], firsts: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the runs that begin at `firsts` and are `counts` long, one after the other, and their slots."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    rows = np.arange(total) + np.repeat(firsts - (ends - counts), counts)
    return rows, np.repeat(slots, counts)
