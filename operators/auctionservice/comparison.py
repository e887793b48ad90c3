"""Whether the routers' counters show a new version to be worse than the stable one.

Each guard is a one-sided test at `guards.confidence`; the statistics are `mechanism.canary`'s. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mechanism.canary import ratio_bounds, share_bounds, share_increase
from operators.conditions import ServiceReason
from operators.resources.auctionservice import Compared, Guards

BID_DISPERSION = 1.5
"""`dispersion` of `ratio_bounds`: 1 + the squared coefficient of variation of the bids; 4/3 for uniform bids."""
QUANTILE = 0.95
MIN_STABLE_ANSWERS = 20
"""Answers of the stable version before anything is compared with it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What routers counted of one version over some time.

    `buckets` is a Prometheus histogram of seconds per answer: cumulative counts by upper bound. Money in micros.
    """

    answers: int = 0
    failed: int = 0
    shown: int = 0
    clicks: int = 0
    revenue_micros: int = 0
    buckets: Mapping[float, int] = field(default_factory=dict)

    def compared(self) -> Compared:
        """Return the counts as rates, for the status."""
        p95 = quantile(self.buckets, QUANTILE)
        return Compared(
            answers=self.answers,
            error_rate=round(self.failed / self.answers, 4) if self.answers else 0,
            p95_seconds=None if p95 is None else round(p95, 4),
            revenue_micros_per_answer=round(self.revenue_micros / self.answers, 1) if self.answers else 0,
            ads_per_answer=round(self.shown / self.answers, 3) if self.answers else 0,
            click_rate=round(self.clicks / self.shown, 4) if self.shown else None,
        )


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken guard, with the measured value and the limit in its message."""

    reason: ServiceReason
    message: str


def breach(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    """Return the first guard that the new version breaks beyond chance, None if it breaks none."""
    if not new.answers:
        return None
    if share_bounds(new.failed, new.answers, guards.confidence).lo > guards.max_error_rate:
        failed = f"{new.failed} of {new.answers} answers failed ({new.failed / new.answers:.1%})"
        return Breach(ServiceReason.ERROR_RATE, f"{failed}: guards.maxErrorRate is {guards.max_error_rate:g}")
    if stable.answers < MIN_STABLE_ANSWERS:
        return None
    for rule in (_error_rise, _latency, _revenue, _click_rate, _ad_load):
        if (broken := rule(new, stable, guards)) is not None:
            return broken
    return None


def _error_rise(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    rise = share_increase(new.failed, new.answers, stable.failed, stable.answers, guards.confidence)
    if rise <= guards.max_error_rise:
        return None
    mine, other = new.failed / new.answers, stable.failed / stable.answers
    message = f"{mine:.1%} of its answers failed, {other:.1%} of the stable version's"
    return Breach(ServiceReason.ERROR_RATE, f"{message}: guards.maxErrorRise is {guards.max_error_rise:g}")


def _latency(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    """Compare the share of answers that took longer than the stable version's p95 times the ratio with 5%."""
    reference, total = quantile(stable.buckets, QUANTILE), _total(new.buckets)
    if reference is None or not total:
        return None
    limit = reference * guards.max_latency_ratio
    slower = total - below(new.buckets, limit)
    if share_bounds(slower, total, guards.confidence).lo <= 1 - QUANTILE:
        return None
    mine = quantile(new.buckets, QUANTILE)
    return Breach(
        ServiceReason.LATENCY,
        f"{slower / total:.1%} of its answers took longer than {limit:.3g} s (p95 {mine:.3g} s, the stable version's "
        f"{reference:.3g} s): guards.maxLatencyRatio is {guards.max_latency_ratio:g}",
    )


def _revenue(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    if not stable.clicks:
        return None
    half_a_bid = stable.revenue_micros / stable.clicks / 2  # keeps the ratio finite for a version without a click
    ratio = ratio_bounds(
        (new.revenue_micros + half_a_bid) / new.answers,
        (stable.revenue_micros + half_a_bid) / stable.answers,
        new.clicks,
        stable.clicks,
        guards.confidence,
        BID_DISPERSION,
    )
    if ratio is None or ratio.hi >= guards.min_revenue_ratio:
        return None
    mine, other = (c.revenue_micros / c.answers for c in (new, stable))
    message = f"it earned {mine:.0f} micros per answer, the stable version {other:.0f}"
    return Breach(ServiceReason.REVENUE, f"{message}: guards.minRevenueRatio is {guards.min_revenue_ratio:g}")


def _click_rate(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    if not new.shown or not stable.shown:
        return None
    mine, other = (new.clicks + 0.5) / new.shown, (stable.clicks + 0.5) / stable.shown
    ratio = ratio_bounds(mine, other, new.clicks, stable.clicks, guards.confidence)
    if ratio is None or ratio.hi >= guards.min_click_rate_ratio:
        return None
    mine, other = (c.clicks / c.shown for c in (new, stable))
    message = f"{mine:.2%} of the ads it showed were clicked, {other:.2%} of the stable version's"
    return Breach(ServiceReason.CLICK_RATE, f"{message}: guards.minClickRateRatio is {guards.min_click_rate_ratio:g}")


def _ad_load(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    mine, other = (c.shown / c.answers for c in (new, stable))
    ratio = ratio_bounds(mine, other, new.shown, stable.shown, guards.confidence)
    if ratio is None or ratio.lo <= guards.max_ad_load_ratio:
        return None
    message = f"it showed {mine:.2f} ads per answer, the stable version {other:.2f}"
    return Breach(ServiceReason.AD_LOAD, f"{message}: guards.maxAdLoadRatio is {guards.max_ad_load_ratio:g}")


def quantile(buckets: Mapping[float, int], q: float) -> float | None:
    """Return the q-quantile of a histogram, interpolated within its bucket; None for an empty histogram.

    In the last bucket, which has no upper bound, it is the lower bound.
    """
    total = _total(buckets)
    if not total:
        return None
    lower, before = 0.0, 0
    for bound in sorted(buckets):
        if buckets[bound] >= q * total:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - before
            return lower + (bound - lower) * (q * total - before) / inside if inside else bound
        lower, before = bound, buckets[bound]
    return lower


def below(buckets: Mapping[float, int], limit: float) -> float:
    """Return how many values of a histogram are below a limit, interpolated within its bucket."""
    lower, before = 0.0, 0.0
    for bound in sorted(buckets):
        if bound >= limit:
            if math.isinf(bound):
                return float(buckets[bound])
            return before + (buckets[bound] - before) * (limit - lower) / (bound - lower)
        lower, before = bound, buckets[bound]
    return before


def _total(buckets: Mapping[float, int]) -> int:
    return max(buckets.values(), default=0)
