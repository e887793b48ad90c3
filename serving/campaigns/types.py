"""What an advertiser books: campaigns, their creatives, budgets and limits, as plain records.

Validation of what arrives over HTTP is `serving.campaigns.checks`; who may take part in an auction is
`serving.auction.eligibility`; storage is `serving.database`. Times are UTC, money is in micros of the campaign's
currency.
"""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum

import msgspec

from mechanism.errors import InputError
from mechanism.types import Micros

LARGEST_BID = 2**62
"""Bids after adjustment are computed in 64 bits."""


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
    """How the daily budget is spread: evenly over the day's open hours, or as soon as possible."""

    EVEN = "even"
    ASAP = "asap"


class Pricing(StrEnum):
    """What is paid for (`mechanism.payments`): the bid per click, the bid times the predicted click probability per
    impression, or the same for every auction taken part in."""

    CLICK = "click"
    IMPRESSION = "impression"
    PARTICIPATION = "participation"


class Creative(msgspec.Struct, frozen=True, kw_only=True):
    """One ad text of a campaign; its id is the ad id of the auction (`mechanism.types.Ad.id`)."""

    id: str
    title: str
    text: str = ""
    landing_url: str
    image_url: str = ""
    video_url: str = ""
    review: ReviewState = ReviewState.PENDING
    review_note: str = ""


class Daypart(msgspec.Struct, frozen=True, kw_only=True):
    """Hours of the week, in the campaign's time zone: on `days` (0 Monday .. 6 Sunday) from `from_hour` until before
    `to_hour` (1..24)."""

    days: tuple[int, ...]
    from_hour: int = 0
    to_hour: int = 24


class FrequencyCap(msgspec.Struct, frozen=True, kw_only=True):
    """At most `impressions` to one user within `hours`."""

    impressions: int
    hours: int


class Targeting(msgspec.Struct, frozen=True, kw_only=True):
    """Where ads may stand; an empty tuple admits everything. Keywords match whole words of the query, any of them."""

    countries: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    placements: tuple[str, ...] = ()


class BidAdjustment(msgspec.Struct, frozen=True, kw_only=True):
    """Multiplies the bid by `thousandths` / 1000 where a request's `dimension` (country, language, category,
    placement) is `value`. Several adjustments multiply; the result is rounded down once."""

    dimension: str
    value: str
    thousandths: int


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign. A budget of None is unlimited. `version` grows with every change (optimistic locking).

    `separation` names a group of competitors of which one answer shows at most one. The advertiser's own exclusions are
    `block_categories` and `block_placements` of the conversation, and `block_advertisers`: those that no answer shows
    beside this campaign.
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
    """What a campaign has spent, by the ledger: in all, and on `day` (ISO date in the campaign's time zone)."""

    campaign_id: str
    total_micros: Micros = 0
    day: str = ""
    day_micros: Micros = 0


def normal(value: str) -> str:
    """The form in which codes and names are compared: without outer blanks, case folded."""
    return value.strip().casefold()


def check_bid(campaign: Campaign) -> None:
    """Raises InputError for a bid that is negative, or that its adjustments could make outgrow 64 bits."""
    highest = math.prod(max(a.thousandths, 1_000) for a in campaign.adjustments) * campaign.bid_micros
    if campaign.bid_micros < 0 or any(a.thousandths < 0 for a in campaign.adjustments):
        raise InputError("bid_micros", campaign.bid_micros, "give a bid and adjustments >= 0")
    if highest // 1_000 ** len(campaign.adjustments) > LARGEST_BID:
        raise InputError("adjustments", campaign.bid_micros, "lower the bid or its adjustments: no 64 bits hold them")
