"""Whether a promoted version stays: its cohorts in the lake beside the previous version's. Pure functions.

`mechanism.canary` decides; this module chooses what is compared, and ends a canary that stays undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mechanism.canary.checks import P95
from mechanism.canary.cohorts import Cohorts, Tally, evidence, is_ripe, total
from mechanism.canary.decision import Action, Decision, decide
from mechanism.canary.latency import quantile
from mechanism.canary.limits import Limits
from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT
from serving.canary.lake_cohorts import newest

ByMinute = Mapping[int, Tally]


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When a version on probation is kept or rolled back.

    It is kept once it is safe, or once `patience_answers` of its answers are ripe and it is not worse. A version that
    took over at once is compared with the previous version's newest `reference_answers` answers before that.

    Raises:
        ConfigError: for a number of answers below 1.
    """

    limits: Limits = field(default_factory=Limits)
    patience_answers: int = 100_000
    reference_answers: int = 1_000

    def __post_init__(self) -> None:
        for name, count in (("patience", self.patience_answers), ("reference", self.reference_answers)):
            if count < 1:
                raise ConfigError(f"guard.{name}_answers", count, "give a whole number of 1 or more")


@dataclass(frozen=True, slots=True)
class GuardDecision:
    """What to do with a version, why, and the figures of both versions ("old", "new") by name."""

    action: Literal["keep", "rollback", "wait"]
    reason: str
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def judge(
    new: ByMinute, old: ByMinute, now: float, window_s: float, settings: GuardSettings, *, concurrent: bool
) -> GuardDecision:
    """Decide at Unix time `now` whether the new version stays, by its cohorts beside the old version's.

    `concurrent`: both have traffic at the same time. An empty `old` has nothing to compare with: the version is kept
    once it has enough answers.
    """
    compared = old if concurrent else newest(old, settings.reference_answers)
    figures = {"old": figures_of(compared, now, window_s), "new": figures_of(new, now, window_s)}
    found = decide(evidence(new, compared, now, window_s, concurrent=concurrent), settings.limits)
    if found.action is Action.ROLL_BACK:
        return GuardDecision("rollback", "; ".join(map(str, found.worse)), figures)
    if found.action is Action.SAFE:
        return GuardDecision("keep", f"{found.answers} answers, no figure is worse than allowed", figures)
    if not old and found.answers >= settings.limits.min_answers:
        return GuardDecision("keep", f"{found.answers} answers, no previous version to compare with", figures)
    if found.answers >= settings.patience_answers:
        return GuardDecision("keep", _undecided(found), figures)
    return GuardDecision("wait", f"{found.answers} answers so far; needed: {found.missing(settings.limits)}", figures)


def _undecided(found: Decision) -> str:
    doubts = "; ".join(map(str, found.open))
    return f"{found.answers} answers, no figure is known to be worse; not certain: {doubts}"


def figures_of(cohorts: ByMinute, now: float, window_s: float) -> dict[str, float | None]:
    """Summarise cohorts; None where there is no answer. Revenue of the ripe ones and experience in points per query."""
    everything = total(cohorts.values())
    ripe = total(tally for minute, tally in cohorts.items() if is_ripe(minute, now, window_s))
    answers, written = everything.answers, everything.answers - everything.failed
    return {
        "answers": answers,
        "p95_s": float(quantile(Cohorts.of([everything]).seconds[0], P95)) if answers else None,
        "failed": everything.failed / answers if answers else None,
        "ad_free": everything.ad_free / written if written else None,
        "revenue": ripe.revenue / ripe.priced / MICROS_PER_POINT if ripe.priced else None,
        "revenue_error": _standard_error(ripe) / MICROS_PER_POINT if ripe.priced else None,
        "experience": -everything.penalty / answers if answers else None,
    }


def _standard_error(tally: Tally) -> float:
    """Return the standard error of the revenue per answer."""
    mean = tally.revenue / tally.priced
    return math.sqrt(max(0.0, tally.revenue_squares / tally.priced - mean * mean) / tally.priced)
