"""Why a campaign or creative takes no part in an auction: one code each, the first that applies in the order below.

The order is the contract between the reference rules and the index: state and calendar, money, targeting, blocks,
reader, bid, and last the throttle, so that `paced` always means "everything else fitted". Creatives come last.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reason codes, as auction records, metrics and reports show them; listed in order of precedence."""

    PAUSED = "paused"
    """The advertiser has paused the campaign."""
    ENDED = "ended"
    """The campaign was ended, or its flight is over."""
    NOT_STARTED = "not_started"
    """The flight has not begun."""
    OUTSIDE_DAYPART = "outside_daypart"
    """Closed at this hour of the week in the campaign's time zone."""
    NO_CREATIVE = "no_creative"
    """The campaign has nothing to show."""
    CURRENCY = "currency"
    """Bids in another currency than the request's; bids of one prompt must be comparable."""
    BUDGET_TOTAL = "budget_total"
    """What is left of the total budget does not cover this auction's bid."""
    BUDGET_DAILY = "budget_daily"
    """What is left of today's budget, in the campaign's time zone, does not cover this auction's bid."""
    COUNTRY = "country"
    """Not targeted at the request's country, or the request names none."""
    LANGUAGE = "language"
    """Not targeted at the request's language; a target "en" admits "en-GB"."""
    CATEGORY = "category"
    """Not targeted at the category of the conversation."""
    PLACEMENT = "placement"
    """Not targeted at the placement."""
    KEYWORD = "keyword"
    """No targeted keyword stands in the query as whole words."""
    BLOCKED_BY_ADVERTISER = "blocked_by_advertiser"
    """The campaign excludes the conversation's category or the placement."""
    BLOCKED_BY_PUBLISHER = "blocked_by_publisher"
    """The publisher excludes the campaign's category or advertiser."""
    BLOCKED_BY_USER = "blocked_by_user"
    """The reader excludes the campaign's category or advertiser."""
    CONSENT_MISSING = "consent_missing"
    """The campaign caps its frequency, and without consent nobody's impressions are counted."""
    FREQUENCY_UNCOUNTED = "frequency_uncounted"
    """The campaign caps its frequency, and this reader cannot be counted: no user id, or the counter is full."""
    FREQUENCY_CAMPAIGN = "frequency_campaign"
    """The reader has seen the campaign as often as its cap allows."""
    BID_BELOW_FLOOR = "bid_below_floor"
    """The adjusted bid is under the request's floor."""
    PACED = "paced"
    """Held back in this auction so that the budget lasts (`serving.auction.pacing`)."""
    REVIEW_PENDING = "review_pending"
    """The creative waits for its review."""
    REVIEW_REJECTED = "review_rejected"
    """The creative was rejected."""
    FREQUENCY_CREATIVE = "frequency_creative"
    """The reader has seen the creative as often as its cap allows."""

    @property
    def of_creative(self) -> bool:
        """True for the codes that exclude one creative of a campaign that is itself eligible."""
        return self in (Reason.REVIEW_PENDING, Reason.REVIEW_REJECTED, Reason.FREQUENCY_CREATIVE)
