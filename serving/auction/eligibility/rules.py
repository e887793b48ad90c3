"""The rules of eligibility in their readable form: one campaign, one request, one reason.

This is the definition. `serving.auction.eligibility.index` computes the same for 10,000 campaigns at once and is tested
against it. Nothing here reads a clock, a database or a random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

from mechanism.types import AdId, Micros
from serving.auction.eligibility.request import PlacementRequest, ReachedCaps, segment_code, words
from serving.auction.pacing import participates
from serving.campaigns.dayparts import open_week, week_hour, zone
from serving.campaigns.funds import Account, account_of
from serving.campaigns.types import Campaign, CampaignState, Creative, Priority, ReviewState, Spend, normal


class Reason(StrEnum):
    """Why a campaign or creative takes no part in an auction: the first rule, in this order, that excludes it.

    State and calendar come first, then money, targeting, blocks, reader and bid. Pacing is the last rule for campaigns,
    so that `paced` means that everything else fitted. Creatives follow. Auction records, metrics and reports show these
    codes.
    """

    PAUSED = "paused"
    """The advertiser has paused the campaign."""
    ENDED = "ended"
    """The campaign was ended, or its flight is over."""
    NOT_STARTED = "not_started"
    """The flight has not begun."""
    OUTSIDE_DAYPART = "outside_daypart"
    """The campaign does not run at this hour of the week in its time zone."""
    NO_CREATIVE = "no_creative"
    """The campaign has no creative."""
    CURRENCY = "currency"
    """The campaign bids in another currency than the request's; the bids of one prompt must be comparable."""
    BUDGET_TOTAL = "budget_total"
    """The rest of the total budget does not cover this auction's bid."""
    BUDGET_DAILY = "budget_daily"
    """The rest of today's budget, in the campaign's time zone, does not cover this auction's bid."""
    FUNDS = "funds"
    """What is left of the advertiser's account, or of its credit line, does not cover this auction's bid."""
    COUNTRY = "country"
    """The campaign does not target the request's country, or the request names none."""
    LANGUAGE = "language"
    """The campaign does not target the request's language; the target "en" admits "en-GB"."""
    CATEGORY = "category"
    """The campaign does not target the category of the conversation."""
    PLACEMENT = "placement"
    """The campaign does not target the placement."""
    KEYWORD = "keyword"
    """No targeted keyword occurs in the query as whole words."""
    BLOCKED_BY_ADVERTISER = "blocked_by_advertiser"
    """The campaign excludes the conversation's category or the placement."""
    BLOCKED_BY_PUBLISHER = "blocked_by_publisher"
    """The publisher excludes the campaign's category or advertiser."""
    BLOCKED_BY_USER = "blocked_by_user"
    """The reader excludes the campaign's category or advertiser."""
    CONSENT_MISSING = "consent_missing"
    """The campaign has a frequency cap, and impressions are not counted without the reader's consent."""
    FREQUENCY_UNCOUNTED = "frequency_uncounted"
    """The campaign has a frequency cap, and the reader cannot be counted: no user id, or the counter is full."""
    FREQUENCY_CAMPAIGN = "frequency_campaign"
    """The reader has seen the campaign as often as its cap allows."""
    FLOOR_CURRENCY = "floor_currency"
    """The placement has floors, none of them in the request's currency, so that no bid can be compared with one."""
    BID_BELOW_FLOOR = "bid_below_floor"
    """The adjusted bid is below the floor of the placement or of the request, which hold for paid campaigns alone."""
    PACED = "paced"
    """Pacing holds the campaign back in this auction (`serving.auction.pacing`)."""
    REVIEW_PENDING = "review_pending"
    """The creative waits for its review."""
    REVIEW_REJECTED = "review_rejected"
    """The creative was rejected."""
    FREQUENCY_CREATIVE = "frequency_creative"
    """The reader has seen the creative as often as its cap allows."""

    @property
    def of_creative(self) -> bool:
        """True for the codes that exclude one creative of an eligible campaign."""
        return self in (Reason.REVIEW_PENDING, Reason.REVIEW_REJECTED, Reason.FREQUENCY_CREATIVE)


class CreativeDecision(msgspec.Struct, frozen=True, gc=False):
    """The decision on one creative: eligible at `bid` where `reason` is None, else excluded.

    A campaign without creatives gets one decision with the `creative_id` "". `bid` is adjusted to the request.
    """

    campaign_id: str
    creative_id: AdId
    bid: Micros
    reason: Reason | None


def evaluate(
    campaigns: Iterable[Campaign],
    request: PlacementRequest,
    spends: Mapping[str, Spend],
    participation: Mapping[str, float],
    caps: ReachedCaps,
    funds: Mapping[Account, Micros],
) -> list[CreativeDecision]:
    """Decide on every creative of every campaign.

    `participation` is the pacing probability by campaign id, 1 where missing; a campaign missing in `spends` has spent
    nothing, and an account missing in `funds` is unlimited.
    """
    decisions = []
    for campaign in campaigns:
        bid = adjusted_bid(campaign, request.segments)
        share = participation.get(campaign.id, 1.0)
        left = funds.get(account_of(campaign))
        reason = campaign_reason(campaign, request, bid, spends.get(campaign.id), share, caps, left)
        if not campaign.creatives:
            decisions.append(CreativeDecision(campaign.id, "", bid, reason))
        for creative in campaign.creatives:
            decisions.append(CreativeDecision(campaign.id, creative.id, bid, reason or creative_reason(creative, caps)))
    return decisions


def campaign_reason(
    campaign: Campaign,
    request: PlacementRequest,
    bid: Micros,
    spend: Spend | None,
    participation: float,
    caps: ReachedCaps,
    funds: Micros | None,
) -> Reason | None:
    """Return the first rule that excludes the campaign, None if it is eligible."""
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
    if campaign.priority is not Priority.HOUSE and not _covers(funds, bid):
        return Reason.FUNDS
    target = campaign.targeting
    for dimension, targeted, reason in (
        ("country", target.countries, Reason.COUNTRY),
        ("language", target.languages, Reason.LANGUAGE),
        ("category", target.categories, Reason.CATEGORY),
        ("placement", target.placements, Reason.PLACEMENT),
    ):
        if targeted and not any(segment_code(dimension, t) in request.segments[dimension] for t in targeted):
            return reason
    if target.keywords and not any(_contains(request.query_words, words(k)) for k in target.keywords):
        return Reason.KEYWORD
    if _any_in(campaign.block_categories, request.segments["category"]) or _any_in(
        campaign.block_placements, request.segments["placement"]
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
        if not caps.countable:
            return Reason.FREQUENCY_UNCOUNTED
        if campaign.id in caps.campaigns:
            return Reason.FREQUENCY_CAMPAIGN
    if campaign.priority is not Priority.HOUSE:
        if request.floor_missing:
            return Reason.FLOOR_CURRENCY
        if bid < request.floor_micros:
            return Reason.BID_BELOW_FLOOR
    if not participates(request.auction_id, campaign.id, participation):
        return Reason.PACED
    return None


def creative_reason(creative: Creative, caps: ReachedCaps) -> Reason | None:
    """Return the first rule that excludes one creative of an eligible campaign, None if it is eligible."""
    if creative.review is ReviewState.PENDING:
        return Reason.REVIEW_PENDING
    if creative.review is ReviewState.REJECTED:
        return Reason.REVIEW_REJECTED
    return Reason.FREQUENCY_CREATIVE if creative.id in caps.creatives else None


def adjusted_bid(campaign: Campaign, segments: Mapping[str, tuple[str, ...]]) -> Micros:
    """Apply the adjustments that match a request's segments: an exact product, rounded down once."""
    numerator, denominator = campaign.bid_micros, 1
    for adjustment in campaign.adjustments:
        dimension = adjustment.dimension
        if segment_code(dimension, adjustment.value) in segments[dimension]:
            numerator *= adjustment.thousandths
            denominator *= 1_000
    return numerator // denominator


def budgets_left(campaign: Campaign, spend: Spend | None, now: datetime) -> tuple[Micros | None, Micros | None]:
    """Return the rest of the total budget and of the budget of the campaign's local day, None where unlimited."""
    spent = spend.total_micros if spend else 0
    today = now.astimezone(zone(campaign.time_zone)).date().isoformat()
    spent_today = spend.day_micros if spend and spend.day == today else 0
    total, daily = campaign.total_budget_micros, campaign.daily_budget_micros
    return (None if total is None else total - spent, None if daily is None else daily - spent_today)


def _covers(left: Micros | None, bid: Micros) -> bool:
    # What is spent excludes the campaign even at a bid of 0.
    return left is None or left >= max(bid, 1)


def _any_in(blocked: tuple[str, ...], codes: tuple[str, ...]) -> bool:
    return any(normal(value) in codes for value in blocked)


def _contains(text: tuple[str, ...], phrase: tuple[str, ...]) -> bool:
    return bool(phrase) and any(text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1))
