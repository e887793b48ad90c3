"""From a log of shown answers to estimates: a policy evaluated on its own log, wrong models, and the trials command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks.trainers import offpolicy as trials
from inference.policy import Policy
from inference.scoring import Sampler
from mechanism.errors import InputError
from mechanism.objective import Penalty, s_resp
from mechanism.types import Context
from simulator.clicks import ClickModel
from simulator.world import World
from trainers.artifacts.sampled import Sampled
from trainers.config.gates import OffPolicySettings
from trainers.gates.evidence import Evidence, gather
from trainers.gates.offpolicy import estimate, kish
from trainers.reward.model import OraclePredictor
from trainers.reward.training import RewardQuality

WORLD = World(0, profiles=30)
SETTINGS = OffPolicySettings(draws=100, min_effective_sample=10.0, samples=2)
PENALTY = Penalty(per_ad=10.0)


class Certain:
    """Forecasts a click chance of a quarter for every ad."""

    def probabilities(self, pairs: Any) -> list[dict[str, float]]:
        return [dict.fromkeys(answer.shown(), 0.25) for _, answer in pairs]


@pytest.fixture(scope="module")
def sampler(small_base: Path) -> Sampler:
    policy = Policy.load(str(small_base))
    return Sampler(policy, replace(policy.sampling, temperature=1.0))


@pytest.fixture(scope="module")
def log(sampler: Sampler) -> list[Sampled]:
    """Two answers to each of 40 contexts; every other shown ad is clicked."""
    rng = np.random.default_rng(0)
    queries = [WORLD.train_queries[k] for k in rng.permutation(len(WORLD.train_queries))[:40]]
    contexts: list[Context] = [WORLD.sample_context(q, rng, 4) for q in queries]
    drawn = sampler.policy.generate(contexts, 2, 0, sampler.settings)
    return [
        Sampled(c, tuple(own), tuple({ad: bool(rng.random() < 0.5) for ad in g.answer.shown()} for g in own))
        for c, own in zip(contexts, drawn, strict=True)
    ]


def gathered(log: list[Sampled], logging: Sampler, target: Sampler, **changes: Any) -> Evidence:
    return gather(log, logging, target, Certain(), PENALTY, 1.0, SETTINGS.model_copy(update=changes), 3)


def test_a_policy_is_worth_on_its_own_log_what_the_log_says(log: list[Sampled], sampler: Sampler) -> None:
    found = gathered(log, sampler, sampler)
    points = [
        sum(bid / 10_000 for ad, bid in item.context.bids().items() if clicked.get(ad))
        for item in log
        for clicked in item.clicks or ()
    ]
    assert found.revenue_N == pytest.approx(points)
    assert sum(points) > 0
    assert found.disagreement == 0.0
    for action in ("answer", "ads"):
        assert found.weights[action] == pytest.approx(np.ones(80), abs=1e-3)
        for method in ("ips", "snips"):
            own = SETTINGS.model_copy(update={"method": method})
            revenue = estimate(found.revenue(action), own, 0)
            assert revenue.refusal is None
            assert revenue.value.mean == pytest.approx(np.mean(points), abs=1e-2)
            assert revenue.contexts == 40


def test_forecasts_are_averaged_over_the_targets_own_answers(log: list[Sampled], sampler: Sampler) -> None:
    target = Sampler(sampler.policy, replace(sampler.settings, temperature=0.5))
    found = gathered(log, sampler, target)
    fresh = target.policy.generate([item.context for item in log], 2, 3, target.settings)
    expected = [np.mean([-s_resp(g.answer, PENALTY) for g in own]) for own in fresh]
    assert found.direct_experience_N == pytest.approx(np.repeat(expected, 2))
    bids = [
        [sum(item.context.bids()[a] for a in g.answer.shown()) for g in own]
        for item, own in zip(log, fresh, strict=True)
    ]
    assert found.direct_N == pytest.approx(np.repeat([0.25 * np.mean(b) / 10_000 for b in bids], 2))
    # a penalty is known for any answer: what the log adds to it is nothing
    experience = estimate(found.experience("answer"), SETTINGS, 0)
    assert experience.value.mean == pytest.approx(np.mean(expected))
    assert not np.allclose(found.weights["answer"], 1.0)
    # fewer decisions are weighted, so the weights are more even
    assert kish(found.weights["ads"]) > kish(found.weights["answer"])


def test_a_log_of_other_settings_is_refused(log: list[Sampled], sampler: Sampler) -> None:
    other = Sampler(sampler.policy, replace(sampler.settings, temperature=0.7))
    found = gathered(log, other, sampler)
    assert found.disagreement > 0.5
    for action in ("answer", "ads"):
        assert "not those of the logging model" in str(estimate(found.revenue(action), SETTINGS, 0).refusal)


def test_a_truncated_log_cannot_speak_for_an_untruncated_target(log: list[Sampled], sampler: Sampler) -> None:
    narrow = Sampler(sampler.policy, replace(sampler.settings, top_k=2))
    contexts = [item.context for item in log]
    drawn = sampler.policy.generate(contexts, 1, 5, narrow.settings)
    short = [
        Sampled(c, tuple(own), (dict.fromkeys(own[0].answer.shown(), False),))
        for c, own in zip(contexts, drawn, strict=True)
    ]
    found = gathered(short, narrow, sampler)
    assert found.disagreement == 0.0
    lax = SETTINGS.model_copy(update={"min_effective_sample": 1e-6})
    assert "never have been logged" in str(estimate(found.revenue("answer"), lax, 0).refusal)


def test_a_log_without_clicks_is_an_error(log: list[Sampled], sampler: Sampler) -> None:
    for wrong in ([], [replace(log[0], clicks=None)], [replace(log[0], clicks=log[0].clicks[:1])]):  # type: ignore[index]
        with pytest.raises(InputError, match="shown"):
            gathered(wrong, sampler, sampler)


def test_the_trials_command_counts_refusals_as_misses(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "World", lambda seed: WORLD)
    monkeypatch.setattr(
        trials, "fit", lambda *a: (OraclePredictor(ClickModel()), RewardQuality(0, 0.5, 0.7, 0.0, 0.1, {}))
    )
    out = tmp_path / "bench" / "offpolicy.json"
    app = typer.Typer()
    app.command()(trials.main)
    sizes = {"trials": 2, "contexts": 12, "fitting": 5, "fresh": 20, "candidates": 4}
    arguments = [part for name, size in sizes.items() for part in (f"--{name}", str(size))]
    models = ["--logging", str(small_base), "--target", str(small_base), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, *models])
    assert result.exit_code == 1
    figures = json.loads(out.read_text("utf-8"))
    assert figures["passed"] is False
    assert set(figures["estimates"]) == {
        f"{f}/{m}/{a}" for f in trials.FIGURES for m in trials.METHODS for a in trials.ACTIONS
    }
    for row in figures["estimates"].values():
        # twelve contexts carry nothing
        assert (row["refused"], row["covered"]) == (2, 0)
        assert "effective sample" in row["refusals"][0]
    assert figures["logging"]["digest"] == figures["target"]["digest"]
