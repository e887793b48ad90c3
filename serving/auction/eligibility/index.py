"""The index of live campaigns: evaluates a request for all of them without a loop over campaigns.

It decides as `serving.auction.eligibility.rules` does for every campaign and creative. It is changed in place, campaign
by campaign, and belongs to one thread (the router's event loop).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mechanism.types import Micros
from serving.auction.eligibility.bids import BidAdjustments
from serving.auction.eligibility.columns import CampaignColumns, micros_since_epoch
from serving.auction.eligibility.creatives import CreativeRows, CreativeState
from serving.auction.eligibility.funds import AccountFunds
from serving.auction.eligibility.postings import CampaignPostings, Mask
from serving.auction.eligibility.request import UNCOUNTED, PlacementRequest, ReachedCaps
from serving.auction.eligibility.rules import Reason
from serving.auction.pacing import WHOLE, coins, threshold
from serving.campaigns.dayparts import zone
from serving.campaigns.funds import account_of
from serving.campaigns.types import Campaign, Creative, Priority, Spend, check_bid


@dataclass(frozen=True, slots=True)
class Eligible:
    """One creative that may enter the prompt, at its bid in this auction."""

    campaign: Campaign
    creative: Creative
    bid: Micros


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one evaluation, independent of later changes of the index.

    `rows_E` are the rows of the eligible creatives, `owners_E` the slots of their campaigns. `campaigns`, `bids`,
    `first_rows` and `used` are indexed by slot. `trail` holds, after each rule that excluded by a mask, the slots still
    admitted. `priorities` are ranks by slot, None if all are standard. `slots` are those of the eligible campaigns, and
    `states_M` the states of their creatives, in that order.
    """

    rows_E: NDArray[np.int64]
    owners_E: NDArray[np.int64]
    campaigns: tuple[Campaign | None, ...]
    bids: NDArray[np.int64]
    first_rows: NDArray[np.int64]
    used: Mask
    priorities: NDArray[np.int8] | None
    trail: tuple[tuple[Reason, Mask], ...]
    slots: NDArray[np.int64]
    states_M: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rows_E)

    def tiers(self) -> Iterator[tuple[Priority, Evaluation]]:
        """Yield the eligible creatives of each priority that has any, the highest first."""
        if self.priorities is None:
            yield Priority.STANDARD, self
            return
        ranks_E = self.priorities[self.owners_E]
        for priority in reversed(Priority):
            chosen_E = ranks_E == priority.rank
            if chosen_E.any():
                yield priority, replace(self, rows_E=self.rows_E[chosen_E], owners_E=self.owners_E[chosen_E])

    def eligible(self, position: int) -> Eligible:
        """Return the eligible creative at a position of `rows_E`."""
        slot = int(self.owners_E[position])
        campaign = self.campaigns[slot]
        assert campaign is not None, "an eligible creative belongs to a campaign"
        creative = campaign.creatives[int(self.rows_E[position]) - int(self.first_rows[slot])]
        return Eligible(campaign, creative, int(self.bids[slot]))


class EligibilityIndex:
    """All campaigns that a router holds, live or not, by id; `funds` are those of the accounts that pay for them."""

    def __init__(self) -> None:
        self.funds = AccountFunds()
        self._slots: dict[str, int] = {}
        self._free_slots: list[int] = []
        self._campaigns: list[Campaign | None] = []
        self._frozen: tuple[Campaign | None, ...] | None = None  # `_campaigns` as evaluations share it
        self._spends: dict[str, Spend] = {}
        self._columns = CampaignColumns()
        self._creatives = CreativeRows()
        self._postings = CampaignPostings()
        self._adjustments = BidAdjustments()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Campaign]:
        return (c for c in self._campaigns if c is not None)

    def get(self, campaign_id: str) -> Campaign | None:
        """Return the latest version of a campaign, None if there is none."""
        slot = self._slots.get(campaign_id)
        return None if slot is None else self._campaigns[slot]

    @property
    def has_caps(self) -> bool:
        """Whether any campaign has a frequency cap."""
        size = len(self._campaigns)
        return bool((self._columns.used[:size] & ~self._columns.uncapped[:size]).any())

    def spend(self, campaign_id: str) -> Spend | None:
        """Return the spend last set for a campaign."""
        return self._spends.get(campaign_id)

    def participation(self, campaign_id: str) -> float:
        """Return the pacing probability of a campaign."""
        return int(self._columns.thresholds[self._slots[campaign_id]]) / WHOLE

    def rows_of(self, campaign_id: str) -> range:
        """Return the rows of the campaign's creatives, in their order; `serving.auction.retrieval` uses the same."""
        return self._creatives.rows_of(self._slots[campaign_id])

    def put(self, campaign: Campaign) -> None:
        """Add a campaign or replace its former version; its spend and participation are kept.

        An InputError for an unknown time zone, or for a bid that exceeds 64 bits, leaves the index unchanged.
        """
        zone(campaign.time_zone)
        check_bid(campaign)
        former = self.get(campaign.id)
        slot = self._take_slot(campaign.id) if former is None else self._slots[campaign.id]
        if former is not None:
            self._adjustments.discard(former, slot)
            self._postings.discard(former, slot)
        self._campaigns[slot], self._frozen = campaign, None
        self._adjustments.add(campaign, slot)
        self._postings.add(campaign, slot)
        self._creatives.put(slot, campaign.creatives, former.creatives if former else ())
        self._columns.fill(slot, campaign)
        self._columns.account[slot] = self.funds.number(account_of(campaign))
        self._columns.fill_spend(slot, campaign, self._spends.get(campaign.id))

    def remove(self, campaign_id: str) -> None:
        """Remove a campaign and its spend; an unknown id is ignored."""
        former = self.get(campaign_id)
        if former is None:
            return
        slot = self._slots.pop(campaign_id)
        self._adjustments.discard(former, slot)
        self._postings.discard(former, slot)
        self._creatives.remove(slot, former.creatives)
        self._columns.used[slot] = False
        self._columns.priority[slot] = Priority.STANDARD.rank
        self._campaigns[slot], self._frozen = None, None
        self._free_slots.append(slot)
        self._spends.pop(campaign_id, None)

    def set_spend(self, spend: Spend) -> None:
        """Set the spend of a campaign, also before the campaign itself is put."""
        self._spends[spend.campaign_id] = spend
        campaign = self.get(spend.campaign_id)
        if campaign is not None:
            self._columns.fill_spend(self._slots[campaign.id], campaign, spend)

    def set_accrued(self, campaign_id: str, micros: Micros) -> None:
        """Set what a campaign owes beyond its booked spend; an unknown id is ignored."""
        slot = self._slots.get(campaign_id)
        if slot is not None:
            self._columns.accrued[slot] = micros

    def set_participation(self, campaign_id: str, participation: float) -> None:
        """Set the pacing probability of a campaign; an unknown id is ignored."""
        slot = self._slots.get(campaign_id)
        if slot is not None:
            self._columns.thresholds[slot] = threshold(participation)

    def evaluate(self, request: PlacementRequest, caps: ReachedCaps = UNCOUNTED) -> Evaluation:
        """Apply all rules to all campaigns: O(rules) array operations, plus time for each eligible creative."""
        size, columns = len(self._campaigns), self._columns
        columns.advance_clock(request.now, size)
        if self._frozen is None:
            self._frozen = tuple(self._campaigns)
        bids = self._adjustments.apply(columns.bids[:size].copy(), request, self._frozen)
        used = admitted = columns.used[:size].copy()
        trail: list[tuple[Reason, Mask]] = []
        for reason, mask in self._masks(request, caps, bids):
            if mask is not None:
                admitted = admitted & mask
                trail.append((reason, admitted))
        slots, paced = self._split_by_pacing(request.auction_id, np.flatnonzero(admitted))
        if paced.size:
            admitted = admitted.copy()
            admitted[paced] = False
            trail.append((Reason.PACED, admitted))
        rows_M, owners_M = self._creatives.list_rows(slots)
        states_M = self._creatives.states(rows_M, caps.creatives)
        eligible_M = states_M == CreativeState.APPROVED
        if eligible_M.all():  # the usual case: spares two copies
            rows_E, owners_E = rows_M, owners_M
        else:
            rows_E, owners_E = rows_M[eligible_M], owners_M[eligible_M]
        priorities = columns.priority[:size]
        return Evaluation(
            rows_E=rows_E,
            owners_E=owners_E,
            campaigns=self._frozen,
            bids=bids,
            first_rows=self._creatives.first_row_C[:size].copy(),
            used=used,
            priorities=priorities.copy() if priorities.any() else None,  # ranks; standard is 0
            trail=tuple(trail),
            slots=slots,
            states_M=states_M,
        )

    def _masks(
        self, request: PlacementRequest, caps: ReachedCaps, bids: NDArray[np.int64]
    ) -> Iterator[tuple[Reason, Mask | None]]:
        """Yield one mask per rule in the order of `Reason`: True where it admits, None where it excludes no campaign.

        PACED is missing: its coins are tossed for the campaigns alone that all other rules admit.
        """
        columns, postings, size = self._columns, self._postings, len(self._campaigns)
        now = micros_since_epoch(request.now)
        yield Reason.PAUSED, columns.unpaused[:size]
        yield Reason.ENDED, columns.unended[:size] & (columns.ends[:size] > now)
        yield Reason.NOT_STARTED, columns.starts[:size] <= now
        yield Reason.OUTSIDE_DAYPART, columns.open_now[:size]
        yield Reason.NO_CREATIVE, columns.with_creatives[:size]
        yield Reason.CURRENCY, columns.currency[:size] == columns.currency_number(request.currency)
        least = np.maximum(bids, 1)  # what is spent excludes even a bid of 0
        price = least + columns.accrued[:size]
        yield Reason.BUDGET_TOTAL, columns.total_left[:size] >= price
        yield Reason.BUDGET_DAILY, columns.day_left[:size] >= price
        free = columns.priority[:size] == Priority.HOUSE.rank
        covered = self.funds.covering(columns.account[:size], least)
        yield Reason.FUNDS, None if covered is None else covered | free
        for reason, dimension, untargeted in (
            (Reason.COUNTRY, "country", columns.any_country),
            (Reason.LANGUAGE, "language", columns.any_language),
            (Reason.CATEGORY, "category", columns.any_category),
            (Reason.PLACEMENT, "placement", columns.any_placement),
        ):
            yield reason, postings.targets[dimension].admit(request.segments[dimension], untargeted[:size])
        yield Reason.KEYWORD, postings.keywords.admit(request.query_words, columns.any_keyword[:size])
        for reason, codes, blocked in (
            (Reason.BLOCKED_BY_ADVERTISER, request.segments["category"], postings.blocking_category),
            (Reason.BLOCKED_BY_ADVERTISER, request.segments["placement"], postings.blocking_placement),
            (Reason.BLOCKED_BY_PUBLISHER, request.publisher_blocked_categories, postings.in_category),
            (Reason.BLOCKED_BY_PUBLISHER, request.publisher_blocked_advertisers, postings.of_advertiser),
            (Reason.BLOCKED_BY_USER, request.user_blocked_categories, postings.in_category),
            (Reason.BLOCKED_BY_USER, request.user_blocked_advertisers, postings.of_advertiser),
        ):
            yield reason, blocked.exclude(codes, size)
        if not request.consent:
            yield Reason.CONSENT_MISSING, columns.uncapped[:size]
        elif not caps.countable:
            yield Reason.FREQUENCY_UNCOUNTED, columns.uncapped[:size]
        elif caps.campaigns:
            below = np.ones(size, np.bool_)
            below[[self._slots[id_] for id_ in caps.campaigns if id_ in self._slots]] = False
            yield Reason.FREQUENCY_CAMPAIGN, below | columns.uncapped[:size]
        # House ads cost nothing, so that no floor holds for them.
        yield Reason.FLOOR_CURRENCY, free if request.floor_missing else None
        yield Reason.BID_BELOW_FLOOR, None if request.floor_micros <= 0 else (bids >= request.floor_micros) | free

    def _split_by_pacing(
        self, auction_id: str, slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the slots that take part in this auction, and those that pacing holds back."""
        thresholds = self._columns.thresholds[slots]
        if slots.size == 0 or thresholds.min() >= WHOLE:
            return slots, slots[:0]
        takes_part = coins(auction_id, self._columns.keys[slots]) < thresholds
        return slots[takes_part], slots[~takes_part]

    def _take_slot(self, campaign_id: str) -> int:
        if self._free_slots:
            slot = self._free_slots.pop()
        else:
            slot = len(self._campaigns)
            self._campaigns.append(None)
        self._columns.reserve(slot, campaign_id)
        self._slots[campaign_id] = slot
        return slot
