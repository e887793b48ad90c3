"""Whether a promoted version stays: its answers to real questions against those of the version before. Pure functions.

Every rule asks for evidence: a version goes back when its figures are worse by more than the margin beyond chance, not
when a small window looks bad. Where the answers come from is `serving.canary.samples`'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import proportion_interval

Decision = Literal["keep", "rollback", "wait"]
SLOW = 0.05
"""Share of a version's answers that lie above its p95."""


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """One answer as the log tells it. `failed`: it was cut or not written at all; `filled`: it showed an ad.
    `penalty` is that of its insertions (Eq. 2, 8) in points. `revenue` is what its clicks and impressions cost, in
    micros, None while clicks may still come."""

    seconds: float
    failed: bool
    filled: bool
    penalty: float
    revenue: int | None


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When a version goes back. `least` answers with their clicks are needed to let it stay or to judge its revenue,
    `least_early` to send it back for time, failures or missing ads. Margins: seconds by a factor (and nothing below
    `quick_s` counts as slow), failures and answers without ads by their share, revenue by the share of the old
    version's, experience in points a query. `level` is the confidence of each rule."""

    least: int = 300
    least_early: int = 40
    slower: float = 3.0
    quick_s: float = 0.25
    failures: float = 0.02
    ad_free: float = 0.25
    revenue: float = 0.1
    experience: float = 8.0
    level: float = 0.95

    def __post_init__(self) -> None:
        for name in ("least", "least_early"):
            if getattr(self, name) < 2:
                raise ConfigError(f"guard.{name}", getattr(self, name), "give a whole number of 2 or more")
        if not self.slower >= 1:
            raise ConfigError("guard.slower", self.slower, "give a factor of 1 or more")
        for name in ("quick_s", "failures", "ad_free", "revenue", "experience"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"guard.{name}", getattr(self, name), "give 0 or more")
        if not 0.5 < self.level < 1:
            raise ConfigError("guard.level", self.level, "give a number between 0.5 and 1")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a version, why, and the figures of both versions by name."""

    decision: Decision
    reason: str
    figures: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def judge(old: Sequence[LiveAnswer], new: Sequence[LiveAnswer], settings: GuardSettings) -> Verdict:
    """Whether `new` stays beside what `old` did. Without an old window there is nothing to compare: it stays."""
    figures = {"old": figures_of(old), "new": figures_of(new)}
    early = min(len(old), len(new))
    if old and early >= settings.least_early:
        for rule in (_slower, _failing, _without_ads):
            if reason := rule(old, new, settings):
                return Verdict("rollback", reason, figures)
    ripe_old, ripe_new = ([a for a in window if a.revenue is not None] for window in (old, new))
    if len(ripe_new) < settings.least:
        return Verdict("wait", f"{len(ripe_new)} of {settings.least} answers so far", figures)
    if len(ripe_old) >= settings.least_early:
        for rule in (_poorer, _worse_to_read):
            if reason := rule(ripe_old, ripe_new, settings):
                return Verdict("rollback", reason, figures)
    return Verdict("keep", f"{len(ripe_new)} answers beside {len(ripe_old)} of the version before", figures)


def figures_of(window: Sequence[LiveAnswer]) -> dict[str, float | None]:
    """A window in figures; None where it says nothing. Revenue and experience in points a query."""
    ripe = [a.revenue / MICROS_PER_POINT for a in window if a.revenue is not None]
    if not window:
        return {"answers": 0, "p95_s": None, "failed": None, "ad_free": None, "revenue": None, "experience": None}
    written = [a for a in window if not a.failed]
    return {
        "answers": len(window),
        "p95_s": float(np.percentile([a.seconds for a in window], 95)),
        "failed": float(np.mean([a.failed for a in window])),
        "ad_free": float(np.mean([not a.filled for a in written])) if written else None,
        "revenue": float(np.mean(ripe)) if ripe else None,
        "experience": -float(np.mean([a.penalty for a in window])),
    }


Rule = Callable[[Sequence[LiveAnswer], Sequence[LiveAnswer], GuardSettings], str]
"""The reason to send a version back, empty where there is none."""


def _slower(old: Sequence[LiveAnswer], new: Sequence[LiveAnswer], settings: GuardSettings) -> str:
    """More of the new answers than of the old ones take longer than `slower` times the old p95."""
    p95 = float(np.percentile([a.seconds for a in old], 95))
    limit = max(settings.quick_s, settings.slower * p95)
    share = _share([a.seconds > limit for a in new], settings)
    if share <= SLOW:
        return ""
    slow = float(np.percentile([a.seconds for a in new], 95))
    return f"95% of its answers take up to {slow:.2f} s, those of the version before {p95:.2f} s"


def _failing(old: Sequence[LiveAnswer], new: Sequence[LiveAnswer], settings: GuardSettings) -> str:
    return _more("answers fail", [a.failed for a in old], [a.failed for a in new], settings.failures, settings)


def _without_ads(old: Sequence[LiveAnswer], new: Sequence[LiveAnswer], settings: GuardSettings) -> str:
    bare = [[not a.filled for a in window if not a.failed] for window in (old, new)]
    return _more("answers show no ad", bare[0], bare[1], settings.ad_free, settings) if all(bare) else ""


def _poorer(old: Sequence[LiveAnswer], new: Sequence[LiveAnswer], settings: GuardSettings) -> str:
    before, after = (_array([(a.revenue or 0) / MICROS_PER_POINT for a in window]) for window in (old, new))
    return _fallen("revenue", before, after, settings.revenue * abs(float(before.mean())), settings)


def _worse_to_read(old: Sequence[LiveAnswer], new: Sequence[LiveAnswer], settings: GuardSettings) -> str:
    before, after = (_array([-a.penalty for a in window]) for window in (old, new))
    return _fallen("experience", before, after, settings.experience, settings)


def _more(what: str, old: Sequence[bool], new: Sequence[bool], margin: float, settings: GuardSettings) -> str:
    """Whether an event became more frequent than before by more than the margin, beyond chance."""
    before = float(np.mean(old))
    if _share(new, settings) <= before + margin:
        return ""
    return f"{np.mean(new):.1%} of its {what}, {before:.1%} of the version before"


def _share(events: Sequence[bool], settings: GuardSettings) -> float:
    """What share of all events it is at least, at the level (one-sided)."""
    return proportion_interval(sum(events), len(events), 2 * settings.level - 1).lo


def _fallen(
    what: str, old: NDArray[np.float64], new: NDArray[np.float64], margin: float, settings: GuardSettings
) -> str:
    """Whether a mean fell by more than the margin, beyond chance (Welch's interval, one-sided)."""
    error = math.sqrt(float(old.var(ddof=1)) / len(old) + float(new.var(ddof=1)) / len(new))
    gain = float(new.mean() - old.mean())
    if gain + NormalDist().inv_cdf(settings.level) * error >= -margin:
        return ""
    return f"{what} of {new.mean():.1f} points a query, the version before had {old.mean():.1f}"


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
