"""The index of live campaigns: one evaluation per request without a loop over campaigns.

Answers exactly what `serving.auction.eligibility.rules` says of every campaign and creative. It is changed in place,
campaign
by campaign; it belongs to one thread (the router's event loop), and an evaluation that was handed out stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId, Micros
from serving.auction.eligibility.bids import BidAdjustments
from serving.auction.eligibility.columns import APPROVED, CAPPED, PENDING, REJECTED, UNLIMITED, Columns, Runs, grown
from serving.auction.eligibility.evaluation import Evaluation, creative_rows
from serving.auction.eligibility.postings import KeywordPostings, Mask, Postings
from serving.auction.eligibility.reasons import Reason
from serving.auction.eligibility.request import UNCOUNTED, Capped, PlacementRequest, segment_code, words
from serving.auction.pacing import WHOLE, campaign_key, coins, threshold
from serving.campaigns.dayparts import QUARTER_S, open_week, week_hour, zone
from serving.campaigns.types import Campaign, CampaignState, ReviewState, Spend, check_bid, normal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_REVIEWS = {ReviewState.APPROVED: APPROVED, ReviewState.PENDING: PENDING, ReviewState.REJECTED: REJECTED}
_DIMENSIONS = ("country", "language", "category", "placement")


class EligibilityIndex:
    """All campaigns that a router knows, live or not. `put` replaces a campaign, `set_spend` and `set_participation`
    bring the ledger's and the pacing's news."""

    def __init__(self) -> None:
        self.rows = Runs()
        self._columns = Columns()
        self._reviews_R = np.zeros(0, np.uint8)
        self._slots: dict[str, int] = {}
        self._creative_rows: dict[AdId, int] = {}
        self._campaigns: list[Campaign | None] = []
        self._frozen: tuple[Campaign | None, ...] | None = None
        self._free: list[int] = []
        self._spends: dict[str, Spend] = {}
        self._targets = {dimension: Postings() for dimension in _DIMENSIONS}
        self._keywords = KeywordPostings()
        self._blocking_category, self._blocking_placement = Postings(), Postings()
        self._in_category, self._of_advertiser = Postings(), Postings()
        self._adjustments = BidAdjustments()
        self._currencies: dict[str, int] = {}
        self._zones: dict[str, int] = {}
        self._quarter: int | None = None
        self._hours_Z: list[int] = []
        self._days_Z: list[int] = []

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Campaign]:
        return (c for c in self._campaigns if c is not None)

    def get(self, campaign_id: str) -> Campaign | None:
        """The campaign as it was last put."""
        slot = self._slots.get(campaign_id)
        return None if slot is None else self._campaigns[slot]

    def spend(self, campaign_id: str) -> Spend | None:
        """The campaign's spend as it was last set."""
        return self._spends.get(campaign_id)

    def rows_of(self, campaign_id: str) -> range:
        """The rows of the campaign's creatives, in their order: what `serving.auction.retrieval` files them under."""
        slot = self._slots[campaign_id]
        first = int(self._columns.first_row[slot])
        return range(first, first + int(self._columns.row_count[slot]))

    def put(self, campaign: Campaign) -> None:
        """Adds a campaign, or puts it in the place of its former version; spend and participation stay.

        Raises InputError for a time zone that does not exist and for a bid that outgrows 64 bits.
        """
        zone(campaign.time_zone)
        check_bid(campaign)
        slot = self._slots.get(campaign.id)
        former = None if slot is None else self._campaigns[slot]
        if slot is None or former is None:
            slot = self._free.pop() if self._free else len(self._campaigns)
            self._new_slot(slot, campaign.id)
        else:
            self._adjustments.discard(former, slot)
            self._forget_lists(former, slot)
        self._adjustments.add(campaign, slot)
        self._campaigns[slot] = campaign
        self._frozen = None
        self._fill_lists(campaign, slot)
        self._fill_columns(campaign, slot)
        self._fill_rows(former, campaign, slot)
        self._fill_money(campaign, slot)

    def remove(self, campaign_id: str) -> None:
        """Forgets a campaign; nothing happens where there is none."""
        slot = self._slots.pop(campaign_id, None)
        former = None if slot is None else self._campaigns[slot]
        if slot is None or former is None:
            return
        self._adjustments.discard(former, slot)
        self._forget_lists(former, slot)
        self._free_rows(former, slot)
        self._columns.used[slot] = False
        self._campaigns[slot], self._frozen = None, None
        self._free.append(slot)
        self._spends.pop(campaign_id, None)

    def set_spend(self, spend: Spend) -> None:
        """Takes over what the ledger says of a campaign; kept also for a campaign that is not known yet."""
        self._spends[spend.campaign_id] = spend
        slot = self._slots.get(spend.campaign_id)
        campaign = None if slot is None else self._campaigns[slot]
        if slot is not None and campaign is not None:
            self._fill_money(campaign, slot)

    def set_participation(self, campaign_id: str, participation: float) -> None:
        """Sets the pacing probability of a campaign; nothing happens where there is none."""
        slot = self._slots.get(campaign_id)
        if slot is not None:
            self._columns.thresholds[slot] = threshold(participation)

    def participation(self, campaign_id: str) -> float:
        """The pacing probability of a campaign, as a request meets it."""
        return int(self._columns.thresholds[self._slots[campaign_id]]) / WHOLE

    def evaluate(self, request: PlacementRequest, capped: Capped = UNCOUNTED) -> Evaluation:
        """Eligible creatives with adjusted bids, and the means to tell why the others are not (O(rules) array
        operations; time grows with the eligible creatives)."""
        size, columns = len(self._campaigns), self._columns
        self._turn_clock(request.now)
        if self._frozen is None:
            self._frozen = tuple(self._campaigns)
        bids = self._adjustments.apply(columns.bids[:size].copy(), request, self._frozen)
        used = alive = columns.used[:size].copy()
        trail: list[tuple[Reason, Mask]] = []
        for reason, mask in self._masks(request, capped, bids):
            if mask is not None:
                alive = alive & mask
                trail.append((reason, alive))
        slots = np.flatnonzero(alive)
        slots, paced = self._toss(request.auction_id, slots)
        if paced.size:
            alive = alive.copy()
            alive[paced] = False
            trail.append((Reason.PACED, alive))
        firsts = columns.first_row[:size].copy()
        rows_M, owners_M = creative_rows(slots, firsts[slots], columns.row_count[slots])
        states_M = self._reviews_R[rows_M]
        for creative_id in capped.creatives:
            row = self._creative_rows.get(creative_id)
            if row is not None:
                states_M[(rows_M == row) & (states_M == APPROVED)] = CAPPED
        fit_M = states_M == APPROVED
        if not fit_M.all():
            rows_M, owners_M = rows_M[fit_M], owners_M[fit_M]
        return Evaluation(rows_M, owners_M, self._frozen, bids, firsts, used, tuple(trail), slots, states_M)

    def _masks(
        self, request: PlacementRequest, capped: Capped, bids: NDArray[np.int64]
    ) -> Iterator[tuple[Reason, Mask | None]]:
        """One mask per rule in the order of `Reason`, True where the rule admits; None where it excludes nobody."""
        columns, size = self._columns, len(self._campaigns)
        now = _micros(request.now)
        yield Reason.PAUSED, columns.unpaused[:size]
        yield Reason.ENDED, columns.unended[:size] & (columns.ends[:size] > now)
        yield Reason.NOT_STARTED, columns.starts[:size] <= now
        yield Reason.OUTSIDE_DAYPART, columns.open_now[:size]
        yield Reason.NO_CREATIVE, columns.with_creatives[:size]
        yield Reason.CURRENCY, columns.currency[:size] == self._currencies.get(normal(request.currency), -1)
        price = np.maximum(bids, 1)
        yield Reason.BUDGET_TOTAL, columns.total_left[:size] >= price
        yield Reason.BUDGET_DAILY, columns.day_left[:size] >= price
        for dimension in _DIMENSIONS:
            untargeted: Mask = getattr(columns, f"any_{dimension}")[:size]
            yield Reason(dimension), self._targets[dimension].admit(request.segments[dimension], untargeted)
        yield Reason.KEYWORD, self._keywords.admit(request.query_words, columns.any_keyword[:size])
        yield Reason.BLOCKED_BY_ADVERTISER, self._blocking_category.exclude(request.segments["category"], size)
        yield Reason.BLOCKED_BY_ADVERTISER, self._blocking_placement.exclude(request.segments["placement"], size)
        yield Reason.BLOCKED_BY_PUBLISHER, self._in_category.exclude(request.publisher_blocked_categories, size)
        yield Reason.BLOCKED_BY_PUBLISHER, self._of_advertiser.exclude(request.publisher_blocked_advertisers, size)
        yield Reason.BLOCKED_BY_USER, self._in_category.exclude(request.user_blocked_categories, size)
        yield Reason.BLOCKED_BY_USER, self._of_advertiser.exclude(request.user_blocked_advertisers, size)
        if not (request.consent and capped.countable):
            reason = Reason.FREQUENCY_UNCOUNTED if request.consent else Reason.CONSENT_MISSING
            yield reason, columns.uncapped[:size]
        elif capped.campaigns:
            reached = [s for s in map(self._slots.get, capped.campaigns) if s is not None]
            below = np.ones(size, np.bool_)
            below[reached] = False
            yield Reason.FREQUENCY_CAMPAIGN, below | columns.uncapped[:size]
        yield Reason.BID_BELOW_FLOOR, None if request.floor_micros <= 0 else bids >= request.floor_micros

    def _toss(self, auction_id: str, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The slots that take part in this auction, and those that pacing holds back."""
        thresholds = self._columns.thresholds[slots]
        if slots.size == 0 or thresholds.min() >= WHOLE:
            return slots, slots[:0]
        in_M = coins(auction_id, self._columns.keys[slots]) < thresholds
        return slots[in_M], slots[~in_M]

    def _turn_clock(self, now: datetime) -> None:
        """Brings what hangs on the local time up to date, once in a quarter of an hour."""
        quarter = int(now.timestamp() // QUARTER_S)
        if quarter == self._quarter:
            return
        self._quarter = quarter
        locals_Z = [now.astimezone(zone(name)) for name in self._zones]
        self._hours_Z = [week_hour(local) for local in locals_Z]
        self._days_Z = [local.toordinal() for local in locals_Z]
        size, columns = len(self._campaigns), self._columns
        if size:
            hours_C = np.array(self._hours_Z)[columns.zone[:size]]
            columns.open_now[:size] = columns.open_week[np.arange(size), hours_C]
            today_C = columns.spend_day[:size] == np.array(self._days_Z)[columns.zone[:size]]
            left_C = columns.daily_budget[:size] - np.where(today_C, columns.spend_today[:size], 0)
            columns.day_left[:size] = np.where(columns.daily_budget[:size] == UNLIMITED, UNLIMITED, left_C)

    def _new_slot(self, slot: int, campaign_id: str) -> None:
        if slot == len(self._campaigns):
            self._columns.reserve(slot + 1)
            self._campaigns.append(None)
        self._slots[campaign_id] = slot
        self._columns.keys[slot] = campaign_key(campaign_id)
        self._columns.thresholds[slot] = WHOLE
        self._columns.row_count[slot] = 0

    def _fill_columns(self, campaign: Campaign, slot: int) -> None:
        columns, target = self._columns, campaign.targeting
        columns.used[slot] = True
        columns.unpaused[slot] = campaign.state is not CampaignState.PAUSED
        columns.unended[slot] = campaign.state is not CampaignState.ENDED
        columns.with_creatives[slot] = bool(campaign.creatives)
        columns.any_country[slot], columns.any_language[slot] = not target.countries, not target.languages
        columns.any_category[slot], columns.any_placement[slot] = not target.categories, not target.placements
        columns.any_keyword[slot] = not target.keywords
        columns.uncapped[slot] = not (campaign.campaign_caps or campaign.creative_caps)
        columns.starts[slot] = _micros(campaign.starts_at)
        columns.ends[slot] = UNLIMITED if campaign.ends_at is None else _micros(campaign.ends_at)
        columns.bids[slot] = campaign.bid_micros
        columns.currency[slot] = self._currencies.setdefault(normal(campaign.currency), len(self._currencies))
        if campaign.time_zone not in self._zones:
            self._zones[campaign.time_zone] = len(self._zones)
            self._quarter = None  # the new zone's hour is not known yet
        columns.zone[slot] = self._zones[campaign.time_zone]
        columns.open_week[slot] = open_week(campaign.dayparts)
        if self._quarter is not None:
            columns.open_now[slot] = columns.open_week[slot, self._hours_Z[int(columns.zone[slot])]]

    def _fill_money(self, campaign: Campaign, slot: int) -> None:
        columns, spend = self._columns, self._spends.get(campaign.id)
        spent = spend.total_micros if spend else 0
        columns.total_left[slot] = _left(campaign.total_budget_micros, spent)
        columns.daily_budget[slot] = _left(campaign.daily_budget_micros, 0)
        columns.spend_day[slot] = date.fromisoformat(spend.day).toordinal() if spend and spend.day else 0
        columns.spend_today[slot] = spend.day_micros if spend else 0
        if self._quarter is not None:
            today = int(columns.spend_day[slot]) == self._days_Z[int(columns.zone[slot])]
            columns.day_left[slot] = _left(campaign.daily_budget_micros, int(columns.spend_today[slot]) if today else 0)

    def _fill_rows(self, former: Campaign | None, campaign: Campaign, slot: int) -> None:
        columns, count = self._columns, len(campaign.creatives)
        if former is not None:
            for creative in former.creatives:
                self._creative_rows.pop(creative.id, None)
        if former is None or len(former.creatives) != count:
            self.rows.give_back(int(columns.first_row[slot]), int(columns.row_count[slot]))
            columns.first_row[slot], columns.row_count[slot] = self.rows.take(count), count
            if self.rows.size > len(self._reviews_R):
                self._reviews_R = grown(self._reviews_R, self.rows.size)
        for row, creative in enumerate(campaign.creatives, start=int(columns.first_row[slot])):
            self._creative_rows[creative.id] = row
            self._reviews_R[row] = _REVIEWS[creative.review]

    def _free_rows(self, former: Campaign, slot: int) -> None:
        for creative in former.creatives:
            self._creative_rows.pop(creative.id, None)
        self.rows.give_back(int(self._columns.first_row[slot]), int(self._columns.row_count[slot]))

    def _fill_lists(self, campaign: Campaign, slot: int) -> None:
        for postings, code in self._entries(campaign):
            postings.add(code, slot)
        for keyword in campaign.targeting.keywords:
            self._keywords.add(words(keyword), slot)

    def _forget_lists(self, campaign: Campaign, slot: int) -> None:
        for postings, code in self._entries(campaign):
            postings.discard(code, slot)
        for keyword in campaign.targeting.keywords:
            self._keywords.discard(words(keyword), slot)

    def _entries(self, campaign: Campaign) -> Iterator[tuple[Postings, str]]:
        target = campaign.targeting
        targeted = (target.countries, target.languages, target.categories, target.placements)
        for dimension, values in zip(_DIMENSIONS, targeted, strict=True):
            yield from ((self._targets[dimension], segment_code(dimension, value)) for value in values)
        yield from ((self._blocking_category, normal(value)) for value in campaign.block_categories)
        yield from ((self._blocking_placement, normal(value)) for value in campaign.block_placements)
        yield self._in_category, normal(campaign.category)
        yield self._of_advertiser, normal(campaign.advertiser_id)


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _left(budget: Micros | None, spent: Micros) -> int:
    return UNLIMITED if budget is None else min(budget - spent, UNLIMITED)
