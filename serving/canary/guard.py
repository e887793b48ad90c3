"""Whether a promoted version stays: its answers to real questions compared with the previous version's. Pure functions.

A version is rolled back only when a figure is worse by more than its margin beyond chance (`mechanism.canary`), not
because a small sample looks bad. The samples come from `serving.canary.samples`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mechanism.canary import mean_gain, share_bounds
from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT

Action = Literal["keep", "rollback", "wait"]
ABOVE_P95 = 0.05
"""Share of a version's answers that take longer than its 95th percentile."""


@dataclass(frozen=True, slots=True)
class ServedAnswer:
    """One answer as the event log records it.

    `failed`: it was cut or not written at all; `filled`: it showed an ad. `penalty` is the penalty of its insertions
    (Eq. 2, 8) in points. `revenue` is the price of its clicks and impressions in micros, None while clicks may still
    come.
    """

    seconds: float
    failed: bool
    filled: bool
    penalty: float
    revenue: int | None


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When a version is rolled back.

    `min_answers` answers with their clicks are needed to keep it or to compare its revenue, `min_early_answers` to
    roll it back for latency, failures or missing ads. Limits: p95 as a ratio (answers below `fast_s` seconds never
    count as slow); failures and answers without ads as a rise of their share; revenue as a share of the old version's;
    experience in points per query. `confidence` holds for each rule.
    """

    min_answers: int = 300
    min_early_answers: int = 40
    max_latency_ratio: float = 3.0
    fast_s: float = 0.25
    max_failure_rise: float = 0.02
    max_ad_free_rise: float = 0.25
    max_revenue_loss: float = 0.1
    max_experience_loss: float = 8.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, count in (("min_answers", self.min_answers), ("min_early_answers", self.min_early_answers)):
            if count < 2:
                raise ConfigError(f"guard.{name}", count, "give a whole number of 2 or more")
        if not self.max_latency_ratio >= 1:
            raise ConfigError("guard.max_latency_ratio", self.max_latency_ratio, "give a factor of 1 or more")
        for name, value in (
            ("fast_s", self.fast_s),
            ("max_failure_rise", self.max_failure_rise),
            ("max_ad_free_rise", self.max_ad_free_rise),
            ("max_revenue_loss", self.max_revenue_loss),
            ("max_experience_loss", self.max_experience_loss),
        ):
            if not 0 <= value < math.inf:
                raise ConfigError(f"guard.{name}", value, "give 0 or more")
        if not 0.5 < self.confidence < 1:
            raise ConfigError("guard.confidence", self.confidence, "give a number between 0.5 and 1")


@dataclass(frozen=True, slots=True)
class GuardDecision:
    """What to do with a version, why, and the figures of both versions ("old", "new") by name."""

    action: Action
    reason: str
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


Sample = Sequence[ServedAnswer]


def decide(old: Sample, new: Sample, settings: GuardSettings) -> GuardDecision:
    """Decide whether `new` stays, by its answers beside those of `old`.

    An empty `old` has nothing to compare with: the version is kept once it has enough answers.
    """
    figures = {"old": figures_of(old), "new": figures_of(new)}
    if old and min(len(old), len(new)) >= settings.min_early_answers:
        for rule in (_latency, _failures, _ad_free):
            if reason := rule(old, new, settings):
                return GuardDecision("rollback", reason, figures)
    complete_old, complete_new = ([a for a in sample if a.revenue is not None] for sample in (old, new))
    if len(complete_new) < settings.min_answers:
        return GuardDecision("wait", f"{len(complete_new)} of {settings.min_answers} answers so far", figures)
    if len(complete_old) >= settings.min_early_answers:
        for rule in (_revenue, _experience):
            if reason := rule(complete_old, complete_new, settings):
                return GuardDecision("rollback", reason, figures)
    compared = f"{len(complete_new)} answers, compared with {len(complete_old)} of the previous version"
    return GuardDecision("keep", compared, figures)


def figures_of(sample: Sample) -> dict[str, float | None]:
    """Summarise a sample; None where it has no data. Revenue and experience in points per query."""
    revenues = [a.revenue / MICROS_PER_POINT for a in sample if a.revenue is not None]
    if not sample:
        return {"answers": 0, "p95_s": None, "failed": None, "ad_free": None, "revenue": None, "experience": None}
    written = [a for a in sample if not a.failed]
    return {
        "answers": len(sample),
        "p95_s": _p95(sample),
        "failed": float(np.mean([a.failed for a in sample])),
        "ad_free": float(np.mean([not a.filled for a in written])) if written else None,
        "revenue": float(np.mean(revenues)) if revenues else None,
        "experience": -float(np.mean([a.penalty for a in sample])),
    }


Rule = Callable[[Sample, Sample, GuardSettings], str]
"""Returns the reason to roll a version back, empty if there is none."""


def _latency(old: Sample, new: Sample, settings: GuardSettings) -> str:
    """Compare the share of new answers that take longer than the old p95 times the ratio with 5%."""
    limit = max(settings.fast_s, settings.max_latency_ratio * _p95(old))
    slow = sum(a.seconds > limit for a in new)
    if share_bounds(slow, len(new), settings.confidence).lo <= ABOVE_P95:
        return ""
    return f"95% of its answers take up to {_p95(new):.2f} s, the previous version's {_p95(old):.2f} s"


def _failures(old: Sample, new: Sample, settings: GuardSettings) -> str:
    before, after = ([a.failed for a in sample] for sample in (old, new))
    return _risen("answers fail", before, after, settings.max_failure_rise, settings)


def _ad_free(old: Sample, new: Sample, settings: GuardSettings) -> str:
    before, after = ([not a.filled for a in sample if not a.failed] for sample in (old, new))
    if not before or not after:
        return ""
    return _risen("answers show no ad", before, after, settings.max_ad_free_rise, settings)


def _revenue(old: Sample, new: Sample, settings: GuardSettings) -> str:
    before, after = ([(a.revenue or 0) / MICROS_PER_POINT for a in sample] for sample in (old, new))
    return _fallen("revenue", before, after, settings.max_revenue_loss * abs(float(np.mean(before))), settings)


def _experience(old: Sample, new: Sample, settings: GuardSettings) -> str:
    before, after = ([-a.penalty for a in sample] for sample in (old, new))
    return _fallen("experience", before, after, settings.max_experience_loss, settings)


def _risen(what: str, old: Sequence[bool], new: Sequence[bool], margin: float, settings: GuardSettings) -> str:
    """Return a reason if the share of an event rose by more than the margin beyond chance."""
    before = float(np.mean(old))
    if share_bounds(sum(new), len(new), settings.confidence).lo <= before + margin:
        return ""
    return f"{np.mean(new):.1%} of its {what}, {before:.1%} of the previous version's"


def _fallen(what: str, old: Sequence[float], new: Sequence[float], margin: float, settings: GuardSettings) -> str:
    """Return a reason if a mean fell by more than the margin beyond chance."""
    if mean_gain(new, old, settings.confidence) >= -margin:
        return ""
    return f"{what} of {np.mean(new):.1f} points a query, the previous version had {np.mean(old):.1f}"


def _p95(sample: Sample) -> float:
    return float(np.percentile([a.seconds for a in sample], 95))
