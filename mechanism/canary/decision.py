"""The decision about a new version: keep going, roll it back, or call it safe, with the figures that decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from mechanism.canary.checks import Check, Figure, Flags, checks
from mechanism.canary.cohorts import Evidence
from mechanism.canary.latency import Floats
from mechanism.canary.limits import Limits


class Action(StrEnum):
    """What to do with a version. Between the other two the canary goes on; its owner decides how long."""

    KEEP_GOING = "keep going"
    ROLL_BACK = "roll back"
    SAFE = "safe"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one canary: how much worse the new version is, with its bounds, in the unit of the limit.

    It is taken from the start that decided; `action` is what it alone would have the guard do.
    """

    figure: Figure
    harm: float
    lo: float
    hi: float
    limit: float
    action: Action

    def __str__(self) -> str:
        if math.isinf(self.lo) and math.isinf(self.hi):
            return f"{self.figure}: nothing to compare yet"
        template, worse, better = _PHRASES[self.figure]
        found = template.format(_amount(self.figure, self.harm), worse if self.harm >= 0 else better)
        bounds = " and ".join(_bound(self.figure, value) for value in (self.lo, self.hi))
        return f"{found} (between {bounds}; the limit is {_amount(self.figure, self.limit)})"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a version, and every figure that was compared."""

    action: Action
    comparisons: tuple[Comparison, ...]
    answers: int = 0
    """Ripe answers of the new version."""

    @property
    def worse(self) -> tuple[Comparison, ...]:
        """The figures in which the new version is worse."""
        return tuple(one for one in self.comparisons if one.action is Action.ROLL_BACK)

    @property
    def open(self) -> tuple[Comparison, ...]:
        """The figures in which it is neither worse nor safe."""
        return tuple(one for one in self.comparisons if one.action is Action.KEEP_GOING)

    def missing(self, limits: Limits) -> str:
        """Describe what is missing before the version is safe; "" if nothing is."""
        answers = limits.min_answers - self.answers
        parts = [f"{answers} more answers"] if answers > 0 else []
        parts += [f"more certainty: {one}" for one in self.open]
        return ", ".join(parts)


_PHRASES = {
    Figure.FAILURE_RATE: ("{0} of its answers failed", "", ""),
    Figure.FAILURES: ("{0} {1} of its answers failed", "more", "fewer"),
    Figure.LATENCY: ("{0} {1} of its answers took too long", "more", "fewer"),
    Figure.AD_FREE: ("{0} {1} of its answers showed no ad", "more", "fewer"),
    Figure.AD_LOAD: ("it showed {0} {1} ads per answer", "more", "fewer"),
    Figure.PENALTY: ("{0} {1} penalty per answer", "more", "less"),
    Figure.REVENUE: ("it earned {0} {1} per answer", "less", "more"),
    Figure.CLICK_RATE: ("{0} {1} of its ads were clicked", "fewer", "more"),
}
"""How a comparison is written: with the amount, and with the word for a worse or a better version."""


def _amount(figure: Figure, value: float) -> str:
    return f"{abs(value):.1f} points" if figure is Figure.PENALTY else f"{100 * abs(value):.1f}%"


def _bound(figure: Figure, value: float) -> str:
    """Write a bound with its direction; a failure rate alone has none."""
    if not math.isfinite(value):
        return "unknown"
    if figure is Figure.FAILURE_RATE:
        return _amount(figure, max(0.0, value))
    return f"{_amount(figure, value)} {'worse' if value >= 0 else 'better'}"


def decide(evidence: Evidence, limits: Limits) -> Decision:
    """Decide about one canary; may be called as often as wanted."""
    found = checks(evidence, limits)
    answers = evidence.ripe.new.answers.sum(axis=-1)
    worse, safe = verdicts(found, answers, limits)
    action = Action.ROLL_BACK if worse else Action.SAFE if safe else Action.KEEP_GOING
    return Decision(action, tuple(map(_comparison, found)), int(answers))


def verdicts(found: Sequence[Check], answers: Floats, limits: Limits) -> tuple[Flags, Flags]:
    """Return whether versions are worse, and whether they are safe, (...) each; `answers` (...) are their ripe ones."""
    worse = np.any([check.broken.any(axis=-1) for check in found], axis=0)
    safe = np.all([check.safe for check in found], axis=0) & (answers >= limits.min_answers)
    return worse, safe & ~worse


def _comparison(check: Check) -> Comparison:
    """Return the check of one canary at the start that decided: the first that broke the limit, else the beginning."""
    at = int(check.broken.argmax())
    action = Action.ROLL_BACK if check.broken[at] else Action.SAFE if check.safe else Action.KEEP_GOING
    harm, lo, hi = (float(column[at]) for column in (check.harm, check.lo, check.hi))
    return Comparison(check.figure, harm, lo, hi, check.limit, action)
