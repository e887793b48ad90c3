"""The records of the market drill: what was booked, what the clients sent and saw, and what the platform holds.

Plain data, so that `benchmarks.serving.market_check` needs no server. Money is in micros of one currency, times are
Unix seconds.
"""

from __future__ import annotations

import msgspec


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of one campaign; `cap` is its frequency cap, and None is unlimited. Its time zone is UTC."""

    advertiser: str
    bid: int
    pricing: str = "click"
    daily: int | None = None
    total: int | None = None
    cap: int | None = None


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """What was booked before the traffic: the campaigns by id, publisher and share in thousandths by placement."""

    campaigns: dict[str, Terms]
    shares: dict[str, tuple[str, int]]


class SeenAd(msgspec.Struct, frozen=True):
    """A sponsored link that a client received."""

    ad: str
    campaign: str
    url: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One response to a request for an answer, as far as the client read it.

    key     the request's Idempotency-Key, which its retries share
    reader  the reader's id; empty for one without consent
    router  number of the router that answered
    whole   the response arrived to its end
    stored  a router had kept the answer, which another request began
    ended   when the client had read what it read
    """

    key: str
    auction: str
    reader: str
    placement: str
    router: int
    ads: tuple[SeenAd, ...]
    whole: bool
    ended: float
    stored: bool = False


class FollowedLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link that a client followed until it was redirected, or gave up.

    first      no earlier click of the same reader on the same ad could make it a repeat
    program    the user agent is a program's
    confirmed  the client was redirected
    """

    click: str
    auction: str
    ad: str
    campaign: str
    placement: str
    first: bool
    program: bool
    confirmed: bool
    at: float


class SentConversion(msgspec.Struct, frozen=True, kw_only=True):
    """A conversion that an advertiser's server reported, twice or more often; each click has one at most."""

    click: str
    campaign: str
    value: int
    confirmed: bool


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was killed at `at` and came back at `back`; `router` is its number, -1 for other processes."""

    what: str
    at: float
    back: float
    router: int = -1


class Journal(msgspec.Struct, kw_only=True):
    """What the clients sent and saw, and which processes were killed; `retries` counts requests that were repeated."""

    replies: list[Reply] = []
    clicks: list[FollowedLink] = []
    conversions: list[SentConversion] = []
    kills: list[Kill] = []
    retries: int = 0
    unanswered: int = 0


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """A charge record of the ledger."""

    id: str
    kind: str
    invalid: str
    auction: str
    campaign: str
    ad: str
    placement: str
    price: int
    charged: int
    day: str
    publisher: str = ""
    publisher_micros: int = 0


class ReportLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the reports show of a campaign."""

    clicks: int
    revenue: int
    conversions: int
    conversion_value: int


class PayoutLine(msgspec.Struct, frozen=True, kw_only=True):
    """What the payouts show of a placement."""

    publisher: str
    placement: str
    charged: int
    publisher_micros: int
    platform_micros: int


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """What the platform holds in the end.

    counted      impressions of campaigns with caps that count, as (auction, ad)
    conversions  the stored ones, as (click, value)
    logged       clicks of the conversions in the event log
    """

    charges: list[Charge]
    counted: frozenset[tuple[str, str]]
    conversions: list[tuple[str, int]]
    logged: frozenset[str]
    reports: dict[str, ReportLine]
    payouts: list[PayoutLine]
