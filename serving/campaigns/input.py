"""A campaign as its advertiser writes it, the body of an HTTP request; `serving.campaigns.validation` checks values."""

from __future__ import annotations

from datetime import datetime

import msgspec

from serving.campaigns.types import (
    BidAdjustment,
    CampaignState,
    Daypart,
    FrequencyCap,
    Pacing,
    Pricing,
    Priority,
    Targeting,
)


class CreativeInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A creative as its advertiser writes it. Without an `id` it is given one."""

    title: str
    landing_url: str
    id: str = ""
    text: str = ""
    image_url: str = ""
    video_url: str = ""


# The stored types with unknown fields refused. A stored campaign may have fields of a newer version, which are ignored;
# an advertiser's misspelt field must be an error.
class DaypartInput(Daypart, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hours of the week in which ads may be shown; `days` are 0 (Monday) to 6, `to_hour` is exclusive."""


class FrequencyCapInput(FrequencyCap, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `impressions` to one user within `hours`."""


class TargetingInput(Targeting, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ads may be shown; an empty list admits everything."""


class BidAdjustmentInput(BidAdjustment, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Multiplies the bid by `thousandths` / 1000 where `dimension` (such as country) is `value`."""


class CampaignInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A campaign as its advertiser writes it; the fields are those of `Campaign`.

    `advertiser_id` is needed from an administrator only; an advertiser's key implies it. A `priority` other than
    standard is an administrator's to set. A house ad costs nothing: its bid is what showing it is worth.
    """

    name: str
    bid_micros: int
    currency: str
    id: str = ""
    advertiser_id: str = ""
    category: str = ""
    state: CampaignState = CampaignState.PAUSED
    creatives: list[CreativeInput] = []
    pricing: Pricing = Pricing.CLICK
    priority: Priority = Priority.STANDARD
    daily_budget_micros: int | None = None
    total_budget_micros: int | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    time_zone: str = "UTC"
    dayparts: list[DaypartInput] = []
    pacing: Pacing = Pacing.EVEN
    targeting: TargetingInput = TargetingInput()
    campaign_caps: list[FrequencyCapInput] = []
    creative_caps: list[FrequencyCapInput] = []
    separation: str = ""
    block_categories: list[str] = []
    block_placements: list[str] = []
    block_advertisers: list[str] = []
    adjustments: list[BidAdjustmentInput] = []
