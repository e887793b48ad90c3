"""Gates: a model is promoted only on complete, certain and good figures, and the record tells all of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mechanism.properties import monotonicity
from mechanism.statistics import Interval
from trainers.artifacts.registry import ModelEntry
from trainers.config import GateSettings, OffPolicySettings, WorldConfig
from trainers.gates.clicks import PredictorFigures
from trainers.gates.decision import Decision, Figures, PairedGain, decide
from trainers.gates.offpolicy import Logged, estimate

SETTINGS = GateSettings(offpolicy=OffPolicySettings(method="snips", draws=200), simulator=WorldConfig())
BIDS = (1.0, 50.0, 100.0)


def swept(*clicks: float) -> Any:
    rng = np.random.default_rng(0)
    return monotonicity(np.array(clicks)[:, None] + rng.normal(0, 0.01, size=(3, 200)), BIDS, 0)


def logged(factor: float, contexts: int = 600, offset: float = 30.0) -> Any:
    """A log whose target is worth about `factor` times as much as the logging policy."""
    rng = np.random.default_rng(1)
    good = rng.random(contexts) < 0.5
    values = offset * np.where(good, 2.0, 0.5) + rng.normal(0, 1, contexts)
    # mean of the values is 1.25 offsets; the weights, of mean one, make it 1.25 * factor
    lean = 1.25 * (factor - 1) / 0.75
    weights = np.where(good, 1 + lean, 1 - lean)
    return estimate(Logged(np.arange(contexts), values, weights), SETTINGS.offpolicy, 0)


def predictor(auc: float, half: float = 0.03, gain: Interval | None = None, calibration: float = 1.0) -> Any:
    around = Interval(calibration, calibration - 0.05, calibration + 0.05)
    ranks = Interval(auc, auc - half, auc + half)
    return PredictorFigures(ranks, gain, around, ranks, 900, 300)


GOOD = Figures(
    predictor=predictor(0.7, gain=Interval(0.0, -0.04, 0.04)),
    learned_reward=(10.0, 14.0),
    revenue=logged(1.2),
    experience=logged(1.0, offset=-10.0),
    simulator=PairedGain(30.0, Interval(3.0, 1.0, 5.0), 500),
    monotonicity=swept(0.1, 0.2, 0.3),
    invalid=(0.0, 500),
    quality=PairedGain(0.7, Interval(0.0, -0.01, 0.01), 500),
    latency_ratio=1.05,
)


def verdicts(decision: Decision) -> dict[str, str]:
    return {g.name: g.verdict for g in decision.gates}


def only(figures: Figures) -> tuple[str, str]:
    """The one gate that did not pass, and its verdict."""
    decision = decide(figures, SETTINGS)
    assert not decision.promote
    (gate,) = [g for g in decision.gates if g.verdict != "passed"]
    assert decision.reasons == (f"{gate.name}: {gate.verdict}: {gate.reason}",)
    return gate.name, gate.verdict


def test_a_better_model_is_promoted() -> None:
    decision = decide(GOOD, SETTINGS)
    assert decision.promote, decision.reasons
    assert set(verdicts(decision)) == {
        "click_predictor",
        "learned_reward",
        "offpolicy_revenue",
        "offpolicy_experience",
        "simulator_revenue",
        "monotonicity",
        "invalid_insertions",
        "answer_quality",
        "latency",
    }


def test_missing_figures_are_refused_one_by_one_and_all_together() -> None:
    names = list(Figures.__slots__)
    assert set(verdicts(decide(Figures(), SETTINGS)).values()) == {"refused"}
    gates = [only(replace(GOOD, **{name: None})) for name in names]
    assert {verdict for _, verdict in gates} == {"refused"}
    assert len({name for name, _ in gates}) == len(names)


def test_a_simulator_that_is_not_configured_is_named_and_stands_in_nobodys_way() -> None:
    settings = SETTINGS.model_copy(update={"simulator": None})
    decision = decide(replace(GOOD, simulator=None), settings)
    assert verdicts(decision)["simulator_revenue"] == "not configured"
    assert decision.promote
    assert not decide(replace(GOOD, simulator=None, quality=None), settings).promote
    # figures that are there are judged, configured or not
    worse = replace(GOOD, simulator=PairedGain(30.0, Interval(-3.0, -5.0, -1.0), 500))
    assert verdicts(decide(worse, settings))["simulator_revenue"] == "failed"


def test_an_uncertain_comparison_of_predictors_is_no_ground_to_refuse_a_good_one() -> None:
    wide = replace(GOOD, predictor=predictor(0.7, gain=Interval(-0.05, -0.2, 0.1)))
    assert decide(wide, SETTINGS).promote


@pytest.mark.parametrize(
    ("change", "gate", "verdict"),
    [
        ({"predictor": predictor(0.5)}, "click_predictor", "failed"),
        ({"predictor": predictor(0.57)}, "click_predictor", "refused"),
        ({"predictor": predictor(0.65, gain=Interval(-0.1, -0.15, -0.05))}, "click_predictor", "failed"),
        ({"predictor": predictor(0.7, calibration=1.6)}, "click_predictor", "failed"),
        ({"learned_reward": (10.0, 9.0)}, "learned_reward", "failed"),
        ({"learned_reward": (10.0, math.nan)}, "learned_reward", "refused"),
        ({"revenue": logged(0.7)}, "offpolicy_revenue", "failed"),
        ({"revenue": logged(1.2, contexts=60)}, "offpolicy_revenue", "refused"),
        ({"experience": logged(1.4, offset=-10.0)}, "offpolicy_experience", "failed"),
        ({"simulator": PairedGain(30.0, Interval(-3.0, -5.0, -1.0), 500)}, "simulator_revenue", "failed"),
        ({"simulator": PairedGain(30.0, Interval(3.0, -5.0, 11.0), 500)}, "simulator_revenue", "refused"),
        ({"simulator": PairedGain(30.0, Interval(3.0, 1.0, 5.0), 20)}, "simulator_revenue", "refused"),
        ({"simulator": PairedGain(math.nan, Interval(3.0, 1.0, 5.0), 500)}, "simulator_revenue", "refused"),
        ({"monotonicity": swept(0.3, 0.2, 0.1)}, "monotonicity", "failed"),
        ({"monotonicity": swept(0.2, 0.1, 0.4)}, "monotonicity", "failed"),
        ({"invalid": (0.002, 500)}, "invalid_insertions", "failed"),
        ({"invalid": (0.0, 3)}, "invalid_insertions", "refused"),
        ({"invalid": (math.nan, 500)}, "invalid_insertions", "refused"),
        ({"quality": PairedGain(0.7, Interval(-0.05, -0.06, -0.04), 500)}, "answer_quality", "failed"),
        ({"latency_ratio": 10.0}, "latency", "failed"),
        ({"latency_ratio": math.nan}, "latency", "refused"),
        ({"latency_ratio": 0.0}, "latency", "refused"),
    ],
)
def test_each_gate_stops_what_it_is_for(change: dict[str, Any], gate: str, verdict: str) -> None:
    assert only(replace(GOOD, **change)) == (gate, verdict)


def test_an_estimate_made_under_laxer_limits_is_refused_all_the_same() -> None:
    lax = SETTINGS.model_copy(update={"offpolicy": OffPolicySettings(min_effective_sample=1e6)})
    stopped = {g.name: g for g in decide(GOOD, lax).gates if g.verdict != "passed"}
    assert set(stopped) == {"offpolicy_revenue", "offpolicy_experience"}
    assert all("effective sample" in g.reason for g in stopped.values())


@given(st.tuples(*[st.floats(-100, 100)] * 3), st.floats(0, 1), st.floats(1, 100))
def test_the_worse_end_decides_and_straddling_is_no_pass(ends: tuple[float, ...], share: float, serving: float) -> None:
    lo, mean, hi = sorted(ends)
    settings = SETTINGS.model_copy(update={"simulator_margin": share})
    figures = replace(GOOD, simulator=PairedGain(serving, Interval(mean, lo, hi), 500))
    verdict = verdicts(decide(figures, settings))["simulator_revenue"]
    worst_allowed = -share * serving
    assert verdict == ("passed" if lo >= worst_allowed else "failed" if hi < worst_allowed else "refused")


def test_the_record_holds_every_figure_and_threshold_and_fits_a_registry_entry() -> None:
    unsure = replace(GOOD, revenue=logged(1.2, contexts=60), simulator=PairedGain(30.0, Interval(1, -math.inf, 5), 500))
    record = decide(unsure, SETTINGS).to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    entry = ModelEntry(version="v0002", created=datetime.now(UTC), sha256={}, base="tiny", gates=record)
    assert ModelEntry.model_validate_json(entry.model_dump_json()).gates == record
    gates: Any = record["gates"]
    assert record["promote"] is False
    assert GateSettings.model_validate(record["settings"]) == SETTINGS
    for gate in gates:
        assert gate["thresholds"]
        assert gate["figures"]
        assert gate["reason"]
    by_name = {gate["name"]: gate for gate in gates}
    assert Decision.from_dict(record).to_dict() == record
    revenue = by_name["offpolicy_revenue"]["figures"]
    assert {"value", "gain", "effective_sample", "max_weight", "mean_weight", "clipped", "refusal"} <= set(revenue)
    assert by_name["simulator_revenue"]["figures"]["gain"]["lo"] is None


def test_settings_refuse_unknown_names_and_impossible_thresholds() -> None:
    for wrong in (
        {"revenue_margins": 0.1},
        {"revenue_margin": -0.1},
        {"offpolicy": {"level": 1.0}},
        {"offpolicy": {"method": "magic"}},
        {"max_latency_ratio": math.inf},
    ):
        with pytest.raises(ValidationError):
            GateSettings.model_validate(wrong)
    assert GateSettings.model_validate(GateSettings().model_dump(mode="json")) == GateSettings()
