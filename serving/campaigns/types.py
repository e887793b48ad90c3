"""Campaigns, their creatives, budgets and limits, as plain records.

`serving.campaigns.validation` validates what arrives over HTTP, `serving.campaigns.storage` stores it, and
`serving.auction.eligibility` decides who may take part in an auction. Times are UTC; money is in micros of the
campaign's currency.
"""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum

import msgspec

from mechanism.errors import InputError
from mechanism.types import Micros

LARGEST_BID = 2**62
"""Adjusted bids are computed in 64 bits."""


class CampaignState(StrEnum):
    """Set by the advertiser. An ended campaign stays ended."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class ReviewState(StrEnum):
    """Set by an administrator; only an approved creative is served. A changed creative is pending again."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


class Pacing(StrEnum):
    """How the daily budget is spent: evenly over the day's open hours, or as soon as possible."""

    EVEN = "even"
    ASAP = "asap"


class Pricing(StrEnum):
    """What the advertiser pays for (`mechanism.payments`).

    The bid for a click; the bid times the predicted click probability for an impression; or the same for each auction
    taken part in.
    """

    CLICK = "click"
    IMPRESSION = "impression"
    PARTICIPATION = "participation"


class Priority(StrEnum):
    """Which campaigns are offered to the policy first. Fixed when a campaign is booked; administrators set it.

    A house ad is the operator's or a publisher's own: it takes part where no paid ad can, and costs nothing.
    Sponsorships are offered before standard campaigns.
    """

    HOUSE = "house"
    STANDARD = "standard"
    SPONSORSHIP = "sponsorship"

    @property
    def rank(self) -> int:
        """Its place in the order, the lowest first; 0 for standard."""
        return _RANKS[self]


_RANKS = {Priority.HOUSE: -1, Priority.STANDARD: 0, Priority.SPONSORSHIP: 1}


class Creative(msgspec.Struct, frozen=True, kw_only=True):
    """One ad text of a campaign; its id is the ad id of the auction (`mechanism.types.Ad.id`).

    `findings` are what screening holds it for, such as "title: impostor": a reviewer reads them before approving it.
    """

    id: str
    title: str
    text: str = ""
    landing_url: str
    image_url: str = ""
    video_url: str = ""
    review: ReviewState = ReviewState.PENDING
    review_note: str = ""
    findings: tuple[str, ...] = ()


class Daypart(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of the week in the campaign's time zone.

    `days` are 0 (Monday) to 6 (Sunday); `to_hour` (1 to 24) is exclusive.
    """

    days: tuple[int, ...]
    from_hour: int = 0
    to_hour: int = 24


class FrequencyCap(msgspec.Struct, frozen=True, kw_only=True):
    """At most `impressions` to one user within `hours`."""

    impressions: int
    hours: int


class Targeting(msgspec.Struct, frozen=True, kw_only=True):
    """Where ads may be shown; an empty tuple admits everything.

    Keywords match whole words of the query; one match is enough.
    """

    countries: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    placements: tuple[str, ...] = ()


class BidAdjustment(msgspec.Struct, frozen=True, kw_only=True):
    """Multiplies the bid by `thousandths` / 1000 where a request's `dimension` is `value`.

    `dimension` is country, language, category or placement. Several adjustments multiply; the result is rounded down
    once.
    """

    dimension: str
    value: str
    thousandths: int


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign. A budget of None is unlimited. `version` grows with every change (optimistic locking).

    `separation` names a group of competitors: an answer shows one of them at most. The advertiser excludes
    conversations by `block_categories` and `block_placements`; where the market's rule allows it, no answer shows this
    campaign beside one of `block_advertisers` in the same category.
    """

    id: str
    advertiser_id: str
    name: str
    category: str
    state: CampaignState = CampaignState.PAUSED
    creatives: tuple[Creative, ...] = ()
    bid_micros: Micros
    currency: str
    pricing: Pricing = Pricing.CLICK
    priority: Priority = Priority.STANDARD
    daily_budget_micros: Micros | None = None
    total_budget_micros: Micros | None = None
    starts_at: datetime
    ends_at: datetime | None = None
    time_zone: str = "UTC"
    dayparts: tuple[Daypart, ...] = ()
    pacing: Pacing = Pacing.EVEN
    targeting: Targeting = Targeting()
    campaign_caps: tuple[FrequencyCap, ...] = ()
    creative_caps: tuple[FrequencyCap, ...] = ()
    separation: str = ""
    block_categories: tuple[str, ...] = ()
    block_placements: tuple[str, ...] = ()
    block_advertisers: tuple[str, ...] = ()
    adjustments: tuple[BidAdjustment, ...] = ()
    version: int = 1
    created_at: datetime
    updated_at: datetime


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """What a campaign has spent in all, and on `day` (ISO date in the campaign's time zone), by the ledger."""

    campaign_id: str
    total_micros: Micros = 0
    day: str = ""
    day_micros: Micros = 0


def with_accrued(spend: Spend, micros: Micros, day: str) -> Spend:
    """Return a spend with charges on `day` that the ledger has not booked."""
    booked = spend.day_micros if spend.day == day else 0
    total = spend.total_micros + micros
    return Spend(campaign_id=spend.campaign_id, total_micros=total, day=day, day_micros=booked + micros)


def normal(value: str) -> str:
    """Return the form in which codes and names are compared: without outer blanks, case folded."""
    return value.strip().casefold()


def check_bid(campaign: Campaign) -> None:
    """Check that the bid is not negative, and that its adjustments keep it within 64 bits.

    Raises:
        InputError: if the bid or an adjustment is negative, or the highest adjusted bid does not fit.
    """
    if campaign.bid_micros < 0 or any(a.thousandths < 0 for a in campaign.adjustments):
        raise InputError("bid_micros", campaign.bid_micros, "give a bid and adjustments >= 0")
    if highest_adjusted_bid(campaign) > LARGEST_BID:
        raise InputError("adjustments", campaign.bid_micros, "lower the bid or its adjustments: they exceed 64 bits")


def highest_adjusted_bid(campaign: Campaign) -> Micros:
    """Return the highest bid that a campaign's adjustments can lead to."""
    return _adjusted(campaign, [max(a.thousandths, 1_000) for a in campaign.adjustments])


def lowest_adjusted_bid(campaign: Campaign) -> Micros:
    """Return the lowest bid that a campaign's adjustments can lead to."""
    return _adjusted(campaign, [min(a.thousandths, 1_000) for a in campaign.adjustments])


def _adjusted(campaign: Campaign, thousandths: list[int]) -> Micros:
    scale: int = 1_000 ** len(thousandths)
    return math.prod(thousandths, start=campaign.bid_micros) // scale
