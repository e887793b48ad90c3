"""Gates between a trained model and its users: from measured figures to a decision that is kept as a record.

Pure functions. A gate passes, fails, or refuses where its figures are missing or too uncertain; only a model that
passes every configured gate is promoted. Measuring is left to `measure`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue

from mechanism.properties import Monotonicity
from mechanism.statistics import Interval
from trainers.config.gates import GateSettings
from trainers.gates.clicks import PredictorFigures
from trainers.gates.offpolicy import Estimate

GateVerdict = Literal["passed", "failed", "refused", "not configured"]
"""A gate that the settings do not configure is "not configured": it is recorded and does not count."""

PASSING: tuple[GateVerdict, ...] = ("passed", "not configured")


@dataclass(frozen=True, slots=True)
class PairedGain:
    """The candidate against the serving model on the same queries.

    `serving`: mean of the serving model; `gain`: mean difference (candidate minus serving) with its interval.
    """

    serving: float
    gain: Interval
    queries: int


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures that the gates read; None: not measured. Money and penalties in bid points per query.

    `predictor`: the click predictor on clicks it was not fitted to. `learned_reward`: on validation contexts by that
    predictor, before and after training. `revenue`, `experience`: off-policy, from the serving model's log.
    `simulator`: expected revenue on simulated users; `quality`: answer quality 0..1; `invalid`: invalid insertions per
    answer of the candidate with the number of answers; `latency_ratio`: seconds per answer, candidate to serving.
    """

    predictor: PredictorFigures | None = None
    learned_reward: tuple[float, float] | None = None
    revenue: Estimate | None = None
    experience: Estimate | None = None
    simulator: PairedGain | None = None
    monotonicity: Monotonicity | None = None
    invalid: tuple[float, int] | None = None
    quality: PairedGain | None = None
    latency_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate's verdict, its figures and thresholds, and the reason in words."""

    name: str
    verdict: GateVerdict
    reason: str
    figures: Mapping[str, JsonValue]
    thresholds: Mapping[str, float]

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the gate as JSON values."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "figures": dict(self.figures),
            "thresholds": dict(self.thresholds),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdicts of all gates, and the settings they were decided under."""

    gates: tuple[Gate, ...]
    settings: GateSettings

    @property
    def promote(self) -> bool:
        """Whether every configured gate passed."""
        return all(gate.verdict in PASSING for gate in self.gates)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reason of each gate that did not pass, one line each."""
        return tuple(f"{g.name}: {g.verdict}: {g.reason}" for g in self.gates if g.verdict not in PASSING)

    def to_dict(self) -> dict[str, JsonValue]:
        """Return the record for a registry entry's `gates`."""
        return {
            "promote": self.promote,
            "gates": [gate.to_dict() for gate in self.gates],
            "settings": self.settings.model_dump(mode="json"),
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Decision:
        """Read a record of `to_dict`."""
        settings = GateSettings.model_validate(record["settings"])
        return Decision(tuple(Gate(**gate) for gate in record["gates"]), settings)


def decide(figures: Figures, settings: GateSettings) -> Decision:
    """Apply every gate to its figures, in a fixed order."""
    gates: tuple[Callable[[Figures, GateSettings], Gate], ...] = (
        _predictor,
        _learned_reward,
        _revenue,
        _experience,
        _simulator,
        _monotonicity,
        _invalid,
        _quality,
        _latency,
    )
    return Decision(tuple(gate(figures, settings) for gate in gates), settings)


def _predictor(figures: Figures, settings: GateSettings) -> Gate:
    name, found = "click_predictor", figures.predictor
    thresholds = {
        "min_auc": settings.min_auc,
        "auc_margin": settings.auc_margin,
        "max_calibration_error": settings.max_calibration_error,
    }
    if found is None:
        return _missing(name, thresholds)
    record, auc = found.to_dict(), found.auc
    ranks = f"ranks held-out clicks with an AUC of {auc.mean:.3f} ({auc.lo:.3f} to {auc.hi:.3f})"
    if auc.lo <= settings.min_auc:
        # A useless predictor and meaningless clicks give the same figures: neither justifies training.
        verdict: GateVerdict = "failed" if auc.mean <= settings.min_auc else "refused"
        return Gate(name, verdict, f"{ranks}, {settings.min_auc:g} must be beaten", record, thresholds)
    if found.gain is not None:
        compared, reason = _not_worse(found.gain, settings.auc_margin)
        # An uncertain difference does not refuse a predictor whose own AUC is high enough.
        if compared == "failed":
            return Gate(name, compared, f"{ranks}; beside the serving model's it {reason}", record, thresholds)
    off = min(abs(end - 1.0) for end in (found.calibration.lo, found.calibration.hi))
    holds_one = found.calibration.lo <= 1.0 <= found.calibration.hi
    if not holds_one and off > settings.max_calibration_error:
        reason = f"clicks are {found.calibration.mean:.2f} times those it expects"
        return Gate(name, "failed", f"{ranks}; {reason}", record, thresholds)
    return Gate(name, "passed", ranks, record, thresholds)


def _learned_reward(figures: Figures, settings: GateSettings) -> Gate:
    name, found = "learned_reward", figures.learned_reward
    thresholds = {"min_gain": 0.0}
    if found is None:
        return _missing(name, thresholds)
    before, after = found
    record: dict[str, JsonValue] = {"serving": _number(before), "candidate": _number(after)}
    if not (math.isfinite(before) and math.isfinite(after)):
        return Gate(name, "refused", "the figures are not finite", record, thresholds)
    reason = f"{after:.3g} on validation contexts by the click predictor, the serving model's is {before:.3g}"
    return Gate(name, "passed" if after > before else "failed", reason, record, thresholds)


def _revenue(figures: Figures, settings: GateSettings) -> Gate:
    found = figures.revenue
    margin = settings.revenue_margin * abs(found.logged.mean) if found else math.nan
    return _off_policy("offpolicy_revenue", found, margin, {"revenue_margin": settings.revenue_margin}, settings)


def _experience(figures: Figures, settings: GateSettings) -> Gate:
    margin = settings.experience_margin
    return _off_policy("offpolicy_experience", figures.experience, margin, {"experience_margin": margin}, settings)


def _off_policy(
    name: str, found: Estimate | None, margin: float, thresholds: dict[str, float], settings: GateSettings
) -> Gate:
    thresholds["min_effective_sample"] = settings.offpolicy.min_effective_sample
    if found is None:
        return _missing(name, thresholds)
    record: dict[str, JsonValue] = found.to_dict()
    if found.refusal is not None:
        return Gate(name, "refused", found.refusal, record, thresholds)
    # Checked again, because the estimate may have been made under laxer settings.
    if found.effective_sample < settings.offpolicy.min_effective_sample:
        reason = f"effective sample of {found.effective_sample:.1f} contexts: collect a longer log"
        return Gate(name, "refused", reason, record, thresholds)
    return Gate(name, *_not_worse(found.gain, margin), record, thresholds)


def _simulator(figures: Figures, settings: GateSettings) -> Gate:
    found, share = figures.simulator, settings.simulator_margin
    if settings.simulator is None and found is None:
        return Gate("simulator_revenue", "not configured", "no simulated world is configured (gates.simulator)", {}, {})
    margin = share * abs(found.serving) if found else math.nan
    return _compared("simulator_revenue", found, margin, {"simulator_margin": share}, settings)


def _quality(figures: Figures, settings: GateSettings) -> Gate:
    margin = settings.quality_margin
    return _compared("answer_quality", figures.quality, margin, {"quality_margin": margin}, settings)


def _compared(
    name: str, found: PairedGain | None, margin: float, thresholds: dict[str, float], settings: GateSettings
) -> Gate:
    thresholds["min_queries"] = settings.min_queries
    if found is None:
        return _missing(name, thresholds)
    gain: dict[str, JsonValue] = dict(found.gain.to_dict())
    record: dict[str, JsonValue] = {"serving": _number(found.serving), "gain": gain, "queries": found.queries}
    if found.queries < settings.min_queries:
        return Gate(name, "refused", f"measured on {found.queries} queries only", record, thresholds)
    return Gate(name, *_not_worse(found.gain, margin), record, thresholds)


def _monotonicity(figures: Figures, settings: GateSettings) -> Gate:
    name, found = "monotonicity", figures.monotonicity
    thresholds = {"min_rise": settings.min_rise, "max_fall": settings.max_fall}
    if found is None:
        return _missing(name, thresholds)
    record: dict[str, JsonValue] = {
        "rise": dict(found.rise.to_dict()),
        "lowest_step": dict(found.lowest_step.to_dict()),
        "lowest_at": list(found.lowest_at),
        "never_falls": found.never_falls,
    }
    low, high = found.lowest_at
    if not math.isfinite(found.rise.mean + found.lowest_step.mean):
        return Gate(name, "refused", "the sweep's figures are not finite", record, thresholds)
    if found.rise.mean < settings.min_rise:
        reason = f"the highest bid gains {found.rise.mean:.3f} clicks a query over the lowest"
        return Gate(name, "failed", reason, record, thresholds)
    if not found.never_falls or found.largest_fall > settings.max_fall:
        reason = f"clicks fall by {found.largest_fall:.3f} a query as the bid rises from {low:g} to {high:g}"
        return Gate(name, "failed", reason, record, thresholds)
    return Gate(name, "passed", "no step of a rising bid loses clicks beyond chance", record, thresholds)


def _invalid(figures: Figures, settings: GateSettings) -> Gate:
    name, found = "invalid_insertions", figures.invalid
    thresholds: dict[str, float] = {"max_invalid": settings.max_invalid, "min_queries": settings.min_queries}
    if found is None:
        return _missing(name, thresholds)
    share, answers = found
    record: dict[str, JsonValue] = {"invalid_per_answer": _number(share), "answers": answers}
    if answers < settings.min_queries or not math.isfinite(share):
        return Gate(name, "refused", f"{share:g} measured on {answers} answers only", record, thresholds)
    verdict: GateVerdict = "passed" if share <= settings.max_invalid else "failed"
    return Gate(name, verdict, f"{share:g} invalid insertions an answer", record, thresholds)


def _latency(figures: Figures, settings: GateSettings) -> Gate:
    name, ratio = "latency", figures.latency_ratio
    thresholds = {"max_latency_ratio": settings.max_latency_ratio}
    if ratio is None:
        return _missing(name, thresholds)
    record: dict[str, JsonValue] = {"ratio": _number(ratio)}
    if not (math.isfinite(ratio) and ratio > 0):
        return Gate(name, "refused", f"a ratio of {ratio:g} cannot have been measured", record, thresholds)
    verdict: GateVerdict = "passed" if ratio <= settings.max_latency_ratio else "failed"
    return Gate(name, verdict, f"{ratio:.2f} times the serving model's seconds an answer", record, thresholds)


def _missing(name: str, thresholds: Mapping[str, float]) -> Gate:
    return Gate(name, "refused", "it was not measured", {}, thresholds)


def _not_worse(gain: Interval, margin: float) -> tuple[GateVerdict, str]:
    """Compare the worse end of the gain's interval with the margin; an interval around the margin is a refusal."""
    if not (math.isfinite(gain.mean) and math.isfinite(margin)):
        return "refused", "the figures are not finite"
    change = f"changes by {gain.mean:+.3g} ({gain.lo:.3g} to {gain.hi:.3g}), allowed is {-margin:.3g}"
    if gain.lo >= -margin:
        return "passed", change
    if gain.hi < -margin:
        return "failed", change
    return "refused", f"{change}: too uncertain, measure on more queries"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
