"""The guard of a rollout: the limits of the specification for `mechanism.canary`, and its findings for the status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mechanism.canary.checks import P95, Figure
from mechanism.canary.cohorts import Cohorts, Evidence
from mechanism.canary.decision import Action, Comparison, Decision, decide
from mechanism.canary.latency import quantile
from mechanism.canary.limits import Limits
from operators.conditions import ServiceReason
from operators.resources.auctionservice import Compared, Comparing, Guards


@dataclass(frozen=True, slots=True)
class Breach:
    """Why a version is rolled back, with the measured value and the limit in its message."""

    reason: ServiceReason
    message: str


REASONS: Mapping[Figure, tuple[ServiceReason, str]] = {
    Figure.FAILURE_RATE: (ServiceReason.ERROR_RATE, "guards.maxErrorRate"),
    Figure.FAILURES: (ServiceReason.ERROR_RATE, "guards.maxErrorRise"),
    Figure.LATENCY: (ServiceReason.LATENCY, "guards.maxLatencyRatio"),
    Figure.REVENUE: (ServiceReason.REVENUE, "guards.minRevenueRatio"),
    Figure.CLICK_RATE: (ServiceReason.CLICK_RATE, "guards.minClickRateRatio"),
    Figure.AD_LOAD: (ServiceReason.AD_LOAD, "guards.maxAdLoadRatio"),
}
"""The figures that are compared: reason of a rollback, and the field with the limit."""


def limits_of(guards: Guards) -> Limits:
    """Return the limits of a specification."""
    return Limits(
        confidence=guards.confidence,
        max_failure_rate=guards.max_error_rate,
        max_failure_rise=guards.max_error_rise,
        max_latency_ratio=guards.max_latency_ratio,
        fast_s=0.0,
        max_revenue_loss=1.0 - guards.min_revenue_ratio,
        max_click_rate_loss=1.0 - guards.min_click_rate_ratio,
        max_ad_load_rise=guards.max_ad_load_ratio - 1.0,
        max_ad_free_rise=None,
        max_penalty_rise=None,
        min_answers=guards.min_answers,
    )


def decision_on(found: Evidence | None, guards: Guards) -> Decision:
    """Decide about the candidate; nothing is compared before it has traffic."""
    return Decision(Action.KEEP_GOING, ()) if found is None else decide(found, limits_of(guards))


def breach(decision: Decision) -> Breach | None:
    """Return the first figure in which the candidate is worse, None if there is none."""
    for one in decision.worse:
        reason, field = REASONS[one.figure]
        return Breach(reason, f"{one}: {field}")
    return None


def compared(early: Cohorts, ripe: Cohorts) -> Compared:
    """Return the figures of one version for the status: revenue and clicks from its ripe cohorts."""
    answers, shown, priced, ripe_shown = (
        float(column.sum()) for column in (early.answers, early.shown, ripe.priced, ripe.shown)
    )
    timed = bool(early.seconds.any())
    return Compared(
        answers=int(answers),
        error_rate=round(float(early.failed.sum()) / answers, 4) if answers else 0,
        p95_seconds=round(float(quantile(early.seconds.sum(axis=0), P95)), 4) if timed else None,
        revenue_micros_per_answer=round(float(ripe.revenue.sum()) / priced, 1) if priced else 0,
        ads_per_answer=round(shown / answers, 3) if answers else 0,
        click_rate=round(float(ripe.clicks.sum()) / ripe_shown, 4) if ripe_shown else None,
    )


def comparing(one: Comparison) -> Comparing:
    """Return a comparison for the status; a bound that is not known yet is left out."""
    lo, hi = (round(value, 4) if abs(value) < float("inf") else None for value in (one.lo, one.hi))
    verdict = str(one.action)
    return Comparing(figure=str(one.figure), harm=round(one.harm, 4), low=lo, high=hi, limit=one.limit, verdict=verdict)
