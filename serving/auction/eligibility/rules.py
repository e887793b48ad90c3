"""The rules of eligibility, written to be read: one campaign, one request, one reason.

This is the definition; `serving.auction.eligibility.index` answers the same for 10,000 campaigns at once and is tested
against
it. Nothing here reads a clock, a database or a random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from mechanism.types import AdId, Micros
from serving.auction.eligibility.reasons import Reason
from serving.auction.eligibility.request import Capped, PlacementRequest, segment_code, words
from serving.auction.pacing import participates
from serving.campaigns.dayparts import open_week, week_hour, zone
from serving.campaigns.types import Campaign, CampaignState, Creative, ReviewState, Spend, normal


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The outcome for one creative (`creative_id` "" for a campaign without any): eligible with its adjusted bid where
    `reason` is None, else excluded."""

    campaign_id: str
    creative_id: AdId
    bid: Micros
    reason: Reason | None


def evaluate(
    campaigns: Iterable[Campaign],
    request: PlacementRequest,
    spends: Mapping[str, Spend],
    participation: Mapping[str, float],
    capped: Capped,
) -> list[Verdict]:
    """A verdict for every creative of every campaign. `participation` is the pacing probability by campaign id, 1 where
    none is given; a campaign without a record in `spends` has spent nothing."""
    verdicts = []
    for campaign in campaigns:
        bid = adjusted_bid(campaign, request)
        share = participation.get(campaign.id, 1.0)
        reason = campaign_reason(campaign, request, bid, spends.get(campaign.id), share, capped)
        if not campaign.creatives:
            verdicts.append(Verdict(campaign.id, "", bid, reason))
        for creative in campaign.creatives:
            verdicts.append(Verdict(campaign.id, creative.id, bid, reason or creative_reason(creative, capped)))
    return verdicts


def campaign_reason(
    campaign: Campaign,
    request: PlacementRequest,
    bid: Micros,
    spend: Spend | None,
    participation: float,
    capped: Capped,
) -> Reason | None:
    """The first rule that excludes the campaign, None where all of them admit it."""
    if campaign.state is CampaignState.PAUSED:
        return Reason.PAUSED
    if campaign.state is CampaignState.ENDED or (campaign.ends_at is not None and campaign.ends_at <= request.now):
        return Reason.ENDED
    if request.now < campaign.starts_at:
        return Reason.NOT_STARTED
    if not open_week(campaign.dayparts)[week_hour(request.now.astimezone(zone(campaign.time_zone)))]:
        return Reason.OUTSIDE_DAYPART
    if not campaign.creatives:
        return Reason.NO_CREATIVE
    if normal(campaign.currency) != normal(request.currency):
        return Reason.CURRENCY
    total_left, day_left = budgets_left(campaign, spend, request.now)
    if not _covers(total_left, bid):
        return Reason.BUDGET_TOTAL
    if not _covers(day_left, bid):
        return Reason.BUDGET_DAILY
    target = campaign.targeting
    for dimension, targeted, reason in (
        ("country", target.countries, Reason.COUNTRY),
        ("language", target.languages, Reason.LANGUAGE),
        ("category", target.categories, Reason.CATEGORY),
        ("placement", target.placements, Reason.PLACEMENT),
    ):
        if targeted and not any(segment_code(dimension, t) in request.segments[dimension] for t in targeted):
            return reason
    if target.keywords and not any(_stands_in(words(k), request.query_words) for k in target.keywords):
        return Reason.KEYWORD
    if _any_among(request.segments["category"], campaign.block_categories) or _any_among(
        request.segments["placement"], campaign.block_placements
    ):
        return Reason.BLOCKED_BY_ADVERTISER
    category, advertiser = normal(campaign.category), normal(campaign.advertiser_id)
    if category in request.publisher_blocked_categories or advertiser in request.publisher_blocked_advertisers:
        return Reason.BLOCKED_BY_PUBLISHER
    if category in request.user_blocked_categories or advertiser in request.user_blocked_advertisers:
        return Reason.BLOCKED_BY_USER
    if campaign.campaign_caps or campaign.creative_caps:
        if not request.consent:
            return Reason.CONSENT_MISSING
        if not capped.countable:
            return Reason.FREQUENCY_UNCOUNTED
        if campaign.id in capped.campaigns:
            return Reason.FREQUENCY_CAMPAIGN
    if bid < request.floor_micros:
        return Reason.BID_BELOW_FLOOR
    if not participates(request.auction_id, campaign.id, participation):
        return Reason.PACED
    return None


def creative_reason(creative: Creative, capped: Capped) -> Reason | None:
    """The first rule that excludes one creative of an eligible campaign."""
    if creative.review is ReviewState.PENDING:
        return Reason.REVIEW_PENDING
    if creative.review is ReviewState.REJECTED:
        return Reason.REVIEW_REJECTED
    return Reason.FREQUENCY_CREATIVE if creative.id in capped.creatives else None


def adjusted_bid(campaign: Campaign, request: PlacementRequest) -> Micros:
    """The bid under the segment adjustments that match the request, multiplied exactly and rounded down once."""
    numerator, denominator = campaign.bid_micros, 1
    for adjustment in campaign.adjustments:
        dimension = adjustment.dimension
        if segment_code(dimension, adjustment.value) in request.segments[dimension]:
            numerator *= adjustment.thousandths
            denominator *= 1_000
    return numerator // denominator


def budgets_left(campaign: Campaign, spend: Spend | None, now: datetime) -> tuple[Micros | None, Micros | None]:
    """What is left of the total budget and of today's, None where unlimited; today is the campaign's local day."""
    spent = spend.total_micros if spend else 0
    today = now.astimezone(zone(campaign.time_zone)).date().isoformat()
    spent_today = spend.day_micros if spend and spend.day == today else 0
    total, daily = campaign.total_budget_micros, campaign.daily_budget_micros
    return (None if total is None else total - spent, None if daily is None else daily - spent_today)


def _covers(left: Micros | None, bid: Micros) -> bool:
    """A spent budget takes part in nothing, not even at a bid of nothing."""
    return left is None or left >= max(bid, 1)


def _any_among(codes: tuple[str, ...], blocked: tuple[str, ...]) -> bool:
    return any(normal(b) in codes for b in blocked)


def _stands_in(phrase: tuple[str, ...], text: tuple[str, ...]) -> bool:
    return bool(phrase) and any(text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1))
