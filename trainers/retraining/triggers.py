"""Whether a retraining is due: a pure function of what was observed, the trigger settings and the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue

from mechanism.statistics import Interval
from trainers.config import TriggerConfig

Trigger = Literal["new interactions", "age", "calibration", "population"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the log and earlier retrainings show. None: not known.

    `new`: usable judged interactions since the last retraining (all of them, if there was none). `last_at`: when that
    one began. `watermark`: event time up to which the log is complete. `calibration`: clicks on the newest traffic
    divided by those that the serving model's click predictor expects, with its interval. `population`: how far the
    newest queries moved from those the serving model learned from (`trainers.retraining.observation`).
    """

    new: int
    last_at: datetime | None = None
    watermark: datetime | None = None
    calibration: Interval | None = None
    population: float | None = None


@dataclass(frozen=True, slots=True)
class DueDecision:
    """Whether a retraining is due, the trigger that made it due, and the reason: why it is due, or what is missing."""

    due: bool
    reason: str
    trigger: Trigger | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the decision as JSON values."""
        return {"due": self.due, "reason": self.reason, "trigger": self.trigger}


def is_due(observed: Observed, triggers: TriggerConfig, now: datetime) -> DueDecision:
    """Decide whether to retrain at `now` (aware).

    Enough new traffic and the end of the cooldown are required. Then the first trigger that fires decides, in the
    order number, age, calibration, population.
    """
    new = f"{observed.new} new judged interactions"
    if observed.new < triggers.at_least:
        missing = triggers.at_least - observed.new
        return DueDecision(False, f"{new}: too few to learn from, waiting for {missing} more")
    if observed.last_at is not None and triggers.cooldown_hours:
        ends = observed.last_at + timedelta(hours=triggers.cooldown_hours)
        if now < ends:
            return DueDecision(False, f"{new}: cooldown until {_moment(ends)}")
    if observed.new >= triggers.new_interactions:
        return DueDecision(True, f"{new} (required: {triggers.new_interactions})", "new interactions")
    waits = [f"{triggers.new_interactions - observed.new} more interactions"]
    if triggers.max_age_hours is not None and observed.last_at is not None:
        ends = observed.last_at + timedelta(hours=triggers.max_age_hours)
        if now >= ends:
            return DueDecision(True, f"the last retraining began at {_moment(observed.last_at)}", "age")
        waits.append(f"age at {_moment(ends)}")
    drift = triggers.drift
    if drift.calibration is not None and observed.calibration is not None:
        ratio, off = observed.calibration, _distance_from_one(observed.calibration)
        if off > drift.calibration:
            reason = (
                f"clicks are {ratio.mean:.2f} ({ratio.lo:.2f} to {ratio.hi:.2f}) times those expected of the serving "
                "model"
            )
            return DueDecision(True, reason, "calibration")
        waits.append(f"clicks off by {drift.calibration:.0%} (now {ratio.mean - 1:+.0%}, {off:.0%} beyond chance)")
    if drift.population is not None and observed.population is not None:
        if observed.population > drift.population:
            reason = f"the queries moved by {observed.population:.3f} of their variance (allowed {drift.population:g})"
            return DueDecision(True, reason, "population")
        waits.append(f"queries moved by {drift.population:g} (now {observed.population:.3f})")
    return DueDecision(False, f"{new}: waiting for {', or '.join(waits)}")


def _distance_from_one(ratio: Interval) -> float:
    """Return how far the nearer end of an interval is from one; 0 where the interval contains it."""
    return max(0.0, ratio.lo - 1.0, 1.0 - ratio.hi)


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S%z}"
