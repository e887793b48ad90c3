"""The index of live campaigns: evaluates a request for all of them without a loop over campaigns.

It decides as `serving.auction.eligibility.rules` does for every campaign and creative. It is changed in place, campaign
by campaign, and belongs to one thread (the router's event loop).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mechanism.types import Micros
from serving.auction.eligibility.bids import BidAdjustments
from serving.auction.eligibility.changes import ChangeLog
from serving.auction.eligibility.columns import CampaignColumns
from serving.auction.eligibility.creatives import REVIEW_REASONS, CreativeRows, Review
from serving.auction.eligibility.evaluation import CODES, ELIGIBLE, Codes, Evaluation, count_capped
from serving.auction.eligibility.funds import AccountFunds
from serving.auction.eligibility.postings import CampaignPostings, Slots
from serving.auction.eligibility.request import UNCOUNTED, PlacementRequest, ReachedCaps
from serving.auction.eligibility.rules import Reason, adjusted_bid
from serving.auction.eligibility.slots import CampaignSlots
from serving.auction.eligibility.standing import Frame, Segment, Standing, SteadyTime, lifted_codes
from serving.auction.pacing import WHOLE, coins, threshold
from serving.campaigns.dayparts import zone
from serving.campaigns.funds import account_of
from serving.campaigns.types import Campaign, Priority, Spend, check_bid

SEGMENTS = 128
"""Kinds of requests whose standing is kept: up to eleven bytes each for every campaign."""
PATCHED = 16
"""A standing of which more than one in so many slots has changed is computed again as a whole."""


class EligibilityIndex:
    """All campaigns that a router holds, live or not, by id; `funds` are those of the accounts that pay for them."""

    def __init__(self) -> None:
        self._slots: dict[str, int] = {}
        self._campaigns = CampaignSlots()
        self._spends: dict[str, Spend] = {}
        self._columns = CampaignColumns()
        self._creatives = CreativeRows()
        self._postings = CampaignPostings()
        self._adjustments = BidAdjustments()
        self._changes = ChangeLog()
        self.funds = AccountFunds(self._columns, self._postings.of_account, self._changes)
        self._steady = SteadyTime()
        self._standings: OrderedDict[Segment, Standing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Campaign]:
        return iter(self._campaigns)

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
        self._campaigns.put(slot, campaign)
        self._adjustments.add(campaign, slot)
        self._postings.add(campaign, slot)
        self._creatives.put(slot, campaign.creatives, former.creatives if former else ())
        self._columns.fill(slot, campaign)
        self._columns.account[slot] = self.funds.number(account_of(campaign))
        self._columns.fill_spend(slot, campaign, self._spends.get(campaign.id))
        self._steady.narrow(int(self._columns.starts[slot]), int(self._columns.ends[slot]))
        self._changes.mark(slot)

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
        self._campaigns.free(slot)
        self._spends.pop(campaign_id, None)
        self._changes.mark(slot)

    def set_spend(self, spend: Spend) -> None:
        """Set the spend of a campaign, also before the campaign itself is put."""
        self._spends[spend.campaign_id] = spend
        campaign = self.get(spend.campaign_id)
        if campaign is not None:
            slot = self._slots[campaign.id]
            self._columns.fill_spend(slot, campaign, spend)
            self._changes.mark(slot)

    def set_accrued(self, campaign_id: str, micros: Micros) -> None:
        """Set what a campaign owes beyond its booked spend; an unknown id is ignored."""
        slot = self._slots.get(campaign_id)
        if slot is not None and self._columns.accrued[slot] != micros:
            self._columns.accrued[slot] = micros
            self._changes.mark(slot)

    def set_participation(self, campaign_id: str, participation: float) -> None:
        """Set the pacing probability of a campaign; an unknown id is ignored."""
        slot = self._slots.get(campaign_id)
        if slot is not None:
            self._columns.set_threshold(slot, threshold(participation))

    def evaluate(self, request: PlacementRequest, caps: ReachedCaps = UNCOUNTED) -> Evaluation:
        """Apply all rules to all campaigns; only those that changed since the last such request are computed again."""
        size = len(self._campaigns)
        if self._columns.advance_clock(request.now, size):
            self._changes.mark_all()
        for slot in self._steady.crossed(request.now, self._columns, size).tolist():
            self._changes.mark(slot)
        standing = self._standing(request, caps.countable)
        frame = standing.frame(self._creatives)
        codes = self._codes(standing, request, caps)
        changed = np.flatnonzero(codes != frame.codes).astype(np.int32)
        counts, reviews = self._counts(codes, frame, changed)
        capped = frozenset(caps.creatives) if caps.creatives else frozenset()
        if number := count_capped(codes, capped, self._creatives):
            counts[Reason.FREQUENCY_CREATIVE] = number
            reviews[Review.APPROVED] -= number
        return Evaluation(
            codes=codes,
            frame=frame.codes,
            changed=changed,
            campaigns=self._campaigns.frozen(),
            bids=standing.bids,
            capped=capped,
            segments=request.segments,
            counts=counts,
            campaign_count=len(self._slots),
            eligible_count=reviews[Review.APPROVED],
            ranked={p: slots for p in Priority if (slots := self._postings.of_priority.slots(p)).size},
            creatives=self._creatives,
        )

    def _standing(self, request: PlacementRequest, countable: bool) -> Standing:
        """Return the standing of the request's segment, up to date."""
        segment, size, position = Segment.of(request, countable), len(self._campaigns), self._changes.position
        standing = self._standings.get(segment)
        changed = None if standing is None else self._changes.since(standing.position)
        if standing is None or changed is None or PATCHED * len(changed) > size + 64 * PATCHED:
            bids = self._adjustments.apply(self._columns.bids[:size].copy(), request, self._campaigns)
            lifted = lifted_codes(request, countable, None, bids, self._columns, self._postings, self.funds)
            standing = self._standings[segment] = Standing(lifted, bids, self._columns, position)
            if len(self._standings) > SEGMENTS:
                self._standings.popitem(last=False)
        elif len(changed):
            bids = np.array([self._bid(slot, request) for slot in changed.tolist()], np.int64)
            lifted = lifted_codes(request, countable, changed, bids, self._columns, self._postings, self.funds)
            standing.patch(changed, lifted, bids, self._columns, position)
        self._standings.move_to_end(segment)
        return standing

    def _bid(self, slot: int, request: PlacementRequest) -> Micros:
        campaign = self._campaigns[slot]
        return 0 if campaign is None else adjusted_bid(campaign, request.segments)

    def _codes(self, standing: Standing, request: PlacementRequest, caps: ReachedCaps) -> Codes:
        """Apply to a copy of a standing's codes what concerns the request alone."""
        codes, postings = standing.codes.copy(), self._postings
        for slots in postings.keywords.slots(request.query_words):
            codes[slots] = standing.lifted[slots]
        for names, listed in (
            (request.user_blocked_categories, postings.in_category),
            (request.user_blocked_advertisers, postings.of_advertiser),
        ):
            for name in names:
                _exclude(codes, listed.slots(name), Reason.BLOCKED_BY_USER)
        if request.consent and caps.countable and caps.campaigns:
            reached = np.array([self._slots[id_] for id_ in caps.campaigns if id_ in self._slots], np.int32)
            _exclude(codes, reached[~self._columns.uncapped[reached]], Reason.FREQUENCY_CAMPAIGN)
        if self._columns.throttled:
            tossed = np.flatnonzero((codes == ELIGIBLE) & self._columns.is_throttled[: len(codes)])
            held = coins(request.auction_id, self._columns.keys[tossed]) >= self._columns.thresholds[tossed]
            codes[tossed[held]] = CODES[Reason.PACED]
        return codes

    def _counts(self, codes: Codes, frame: Frame, changed: NDArray[np.int32]) -> tuple[dict[Reason, int], list[int]]:
        """Return the exclusions by reason, and the eligible campaigns' creatives by review."""
        then, now = frame.codes[changed], codes[changed]
        sums = frame.counts - np.bincount(then, minlength=ELIGIBLE + 1) + np.bincount(now, minlength=ELIGIBLE + 1)
        difference = (now == ELIGIBLE).astype(np.float64) - (then == ELIGIBLE)
        reviews = frame.reviews + self._creatives.reviews_SC[:, changed] @ difference
        counts = {reason: number for reason, code in CODES.items() if (number := int(sums[code]))}
        counts |= {reason: number for review, reason in REVIEW_REASONS.items() if (number := int(reviews[review]))}
        return counts, list(map(int, reviews))

    def _take_slot(self, campaign_id: str) -> int:
        slot = self._campaigns.take()
        self._columns.reserve(slot, campaign_id)
        self._slots[campaign_id] = slot
        return slot


def _exclude(codes: Codes, slots: Slots, reason: Reason) -> None:
    """Exclude slots for a reason, unless an earlier rule does."""
    codes[slots] = np.minimum(codes[slots], CODES[reason])
