"""Whether a new version does worse than the stable one beyond what chance explains. Pure arithmetic on counts.

Each guard is a one-sided test at `guards.confidence`: Wilson's interval for shares (Wilson 1927; for differences
Newcombe 1998, method 10), the normal approximation of a log ratio for counts. Bids vary between clicks, so revenue is
taken to vary BID_SPREAD times as much as the number of clicks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from operators.conditions import ServiceReason
from operators.resources.auctionservice import Compared, Guards

BID_SPREAD = 1.5
"""Variance of a sum of bids over that of their number, in units of the mean bid: 1 + the squared coefficient of
variation; 4/3 for uniform bids."""
QUANTILE = 0.95
LEAST_STABLE = 20
"""Answers of the stable version before anything is compared with it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What routers counted of one version in some time. `buckets`: answers by upper bound of their seconds, each with
    those below (Prometheus' form). Money in micros."""

    answers: int = 0
    failed: int = 0
    shown: int = 0
    clicks: int = 0
    revenue_micros: int = 0
    buckets: Mapping[float, int] = field(default_factory=dict)

    def compared(self) -> Compared:
        """The same as rates, for the status."""
        return Compared(
            answers=self.answers,
            error_rate=round(self.failed / self.answers, 4) if self.answers else 0,
            p95_seconds=_rounded(quantile(self.buckets, QUANTILE)),
            revenue_micros_per_answer=round(self.revenue_micros / self.answers, 1) if self.answers else 0,
            ads_per_answer=round(self.shown / self.answers, 3) if self.answers else 0,
            click_rate=round(self.clicks / self.shown, 4) if self.shown else None,
        )


@dataclass(frozen=True, slots=True)
class Breach:
    """A guard that is broken, with what was measured against what."""

    reason: ServiceReason
    message: str


def breach(new: Counts, stable: Counts, guards: Guards) -> Breach | None:
    """The first guard that the new version breaks; None while none is broken for sure."""
    z = NormalDist().inv_cdf(guards.confidence)
    if not new.answers:
        return None
    rate = new.failed / new.answers
    low, _ = wilson(new.failed, new.answers, z)
    if low > guards.max_error_rate:
        limit = f"guards.maxErrorRate is {guards.max_error_rate:g}"
        return Breach(ServiceReason.ERROR_RATE, f"{new.failed} of {new.answers} answers failed ({rate:.1%}): {limit}")
    if stable.answers < LEAST_STABLE:
        return None
    other = stable.failed / stable.answers
    _, high = wilson(stable.failed, stable.answers, z)
    if rate - other - math.hypot(rate - low, high - other) > guards.max_error_rise:
        message = f"{rate:.1%} of its answers failed, {other:.1%} of the stable version's: guards.maxErrorRise is "
        return Breach(ServiceReason.ERROR_RATE, f"{message}{guards.max_error_rise:g}")
    return _slow(new, stable, guards, z) or _poorer(new, stable, guards, z)


def _slow(new: Counts, stable: Counts, guards: Guards, z: float) -> Breach | None:
    """Too many answers took longer than the stable version's 95th percentile times the ratio."""
    reference, total = quantile(stable.buckets, QUANTILE), _total(new.buckets)
    if reference is None or not total:
        return None
    limit = reference * guards.max_latency_ratio
    slower = total - below(new.buckets, limit)
    if wilson(slower, total, z)[0] <= 1 - QUANTILE:
        return None
    mine = quantile(new.buckets, QUANTILE)
    return Breach(
        ServiceReason.LATENCY,
        f"{slower / total:.1%} of its answers took longer than {limit:.3g} s (p95 {mine:.3g} s, the stable version's "
        f"{reference:.3g} s): guards.maxLatencyRatio is {guards.max_latency_ratio:g}",
    )


def _poorer(new: Counts, stable: Counts, guards: Guards, z: float) -> Breach | None:
    bid = stable.revenue_micros / stable.clicks if stable.clicks else 0.0
    revenue = log_ratio(
        (new.revenue_micros + bid / 2) / new.answers if bid else 0, (stable.revenue_micros + bid / 2) / stable.answers
    )
    noise = z * math.sqrt(BID_SPREAD) * _noise(new.clicks, stable.clicks)
    if revenue is not None and revenue + noise < math.log(guards.min_revenue_ratio):
        mine, other = (c.revenue_micros / c.answers for c in (new, stable))
        message = f"it earned {mine:.0f} micros per answer, the stable version {other:.0f}"
        return Breach(ServiceReason.REVENUE, f"{message}: guards.minRevenueRatio is {guards.min_revenue_ratio:g}")
    if not new.shown or not stable.shown:
        return None
    rate = log_ratio((new.clicks + 0.5) / new.shown, (stable.clicks + 0.5) / stable.shown)
    noise = z * _noise(new.clicks, stable.clicks)
    if rate is not None and rate + noise < math.log(guards.min_click_rate_ratio):
        mine, other = (c.clicks / c.shown for c in (new, stable))
        message = f"{mine:.2%} of the ads it showed were clicked, {other:.2%} of the stable version's"
        limit = f"guards.minClickRateRatio is {guards.min_click_rate_ratio:g}"
        return Breach(ServiceReason.CLICK_RATE, f"{message}: {limit}")
    load = log_ratio(new.shown / new.answers, stable.shown / stable.answers)
    if load is not None and load - z * _noise(new.shown, stable.shown) > math.log(guards.max_ad_load_ratio):
        mine, other = (c.shown / c.answers for c in (new, stable))
        message = f"it showed {mine:.2f} ads per answer, the stable version {other:.2f}"
        return Breach(ServiceReason.AD_LOAD, f"{message}: guards.maxAdLoadRatio is {guards.max_ad_load_ratio:g}")
    return None


def wilson(count: float, total: float, z: float) -> tuple[float, float]:
    """Wilson's interval of a share."""
    if total <= 0:
        return 0.0, 1.0
    share, zz = count / total, z * z / total
    middle, half = share + zz / 2, z * math.sqrt(share * (1 - share) / total + zz / (4 * total))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def quantile(buckets: Mapping[float, int], q: float) -> float | None:
    """The q-quantile of a histogram, straight within a bucket; in the last, open one that one's lower bound."""
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
    """How many of a histogram are below a limit, straight within a bucket."""
    lower, before = 0.0, 0.0
    for bound in sorted(buckets):
        if bound >= limit:
            if math.isinf(bound):
                return float(buckets[bound])
            return before + (buckets[bound] - before) * (limit - lower) / (bound - lower)
        lower, before = bound, buckets[bound]
    return before


def log_ratio(mine: float, other: float) -> float | None:
    """log(mine / other); None where there is nothing to compare with."""
    return None if mine <= 0 or other <= 0 else math.log(mine / other)


def _noise(mine: int, other: int) -> float:
    """Standard error of the log ratio of two Poisson counts."""
    return math.sqrt(1 / (mine + 0.5) + 1 / (other + 0.5))


def _total(buckets: Mapping[float, int]) -> int:
    return max(buckets.values(), default=0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
