"""Whether a retraining is due: a pure function of what was observed, the policy and the time."""

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
    """What the log and earlier retrainings say.

    `new`: usable judged interactions since the last retraining (since ever, if there was none). `last_at`: when that
    began. `calibration`: clicks on the newest traffic over those that the serving model's click predictor expects, with
    its interval. `population`: squared distance of the mean embedding of the newest queries from that of the queries
    the serving model learned from, over the latter's variance, freed of chance. None: not known. `watermark`: event
    time up to which the log is complete.
    """

    new: int
    last_at: datetime | None = None
    watermark: datetime | None = None
    calibration: Interval | None = None
    population: float | None = None


@dataclass(frozen=True, slots=True)
class Due:
    """The decision. `trigger` is what made it due; `reason` says why, or what is being waited for, in words."""

    due: bool
    reason: str
    trigger: Trigger | None = None

    def to_dict(self) -> dict[str, JsonValue]:
        """For JSON."""
        return {"due": self.due, "reason": self.reason, "trigger": self.trigger}


def due(observed: Observed, policy: TriggerConfig, now: datetime) -> Due:
    """Whether to retrain at `now` (aware). Enough new traffic and the end of the cooldown are needed in any case; then
    one of the triggers has to speak for it, asked in the order: number, age, calibration, population."""
    new = f"{observed.new} new judged interactions"
    if observed.new < policy.at_least:
        return Due(False, f"{new}: waiting for {policy.at_least - observed.new} more, or nothing can be learned")
    if observed.last_at is not None and policy.cooldown_hours:
        ends = observed.last_at + timedelta(hours=policy.cooldown_hours)
        if now < ends:
            return Due(False, f"{new}: cooldown until {_told(ends)}")
    if observed.new >= policy.new_interactions:
        return Due(True, f"{new} (asked: {policy.new_interactions})", "new interactions")
    waits = [f"{policy.new_interactions - observed.new} more interactions"]
    if policy.max_age_hours is not None and observed.last_at is not None:
        ends = observed.last_at + timedelta(hours=policy.max_age_hours)
        if now >= ends:
            return Due(True, f"the last retraining began at {_told(observed.last_at)}", "age")
        waits.append(f"age at {_told(ends)}")
    drift = policy.drift
    if drift.calibration is not None and observed.calibration is not None:
        told, off = observed.calibration, _beyond_one(observed.calibration)
        if off > drift.calibration:
            reason = (
                f"clicks are {told.mean:.2f} ({told.lo:.2f} to {told.hi:.2f}) times those expected of the serving model"
            )
            return Due(True, reason, "calibration")
        waits.append(f"clicks off by {drift.calibration:.0%} (now {told.mean - 1:+.0%}, {off:.0%} beyond chance)")
    if drift.population is not None and observed.population is not None:
        if observed.population > drift.population:
            reason = f"the queries moved by {observed.population:.3f} of their variance (allowed {drift.population:g})"
            return Due(True, reason, "population")
        waits.append(f"queries moved by {drift.population:g} (now {observed.population:.3f})")
    return Due(False, f"{new}: waiting for {', or '.join(waits)}")


def _beyond_one(ratio: Interval) -> float:
    """How far an interval keeps away from one; 0 where it holds it."""
    return max(0.0, ratio.lo - 1.0, 1.0 - ratio.hi)


def _told(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S%z}"
