"""A retraining from a log: one epoch from the serving model, gates that read the log alone, one entry in the registry;
killed, it goes on. The poisoned log is refused."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from inference.models import resolve
from inference.policy import Policy
from mechanism.errors import ConfigError, InputError
from simulator.world import World
from tests.trainers.logged_traffic import BEGINNING, served, write
from trainers.artifacts.registry import ModelEntry, Registry
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import RetrainConfig, parse_config, parse_retraining
from trainers.gates.decision import Decision
from trainers.irpo.session import Session
from trainers.retraining import RetrainOutcome, observe, retrain
from trainers.retraining.attempts import Attempts, new_since
from trainers.retraining.release import register_best

WORLD = World(0, profiles=60)
NOW = BEGINNING + timedelta(days=1)
CONFIG = """
triggers: {new_interactions: 200, at_least: 100, cooldown_hours: 0}
log: {held_out: 0.4}
reward: {passes: 4, batch: 64}
rollout: {contexts: 24, samples: 4, temperature: 1.0}
penalty: {per_ad: 2.0}
preference: {delta: 1.0, losers: 2, counterfactual_bids: 1}
optimisation: {learning_rate: 1.0e-4, batch: 8, batch_per_process: 8}
evaluation: {validation: 16}
gates: {queries: 24, swept: 8, offpolicy: {action: ads, draws: 100}}
"""


def config(**changes: Any) -> RetrainConfig:
    return parse_retraining(CONFIG, "policy.yaml", [f"{name}={value}" for name, value in changes.items()])


def started(folder: Path, count: int, **traffic: Any) -> tuple[Registry, ModelEntry, str]:
    """A registry with the serving model, and the lake of what it served."""
    registry = Registry(folder / "registry")
    entry = registry.register(resolve("tiny"), base="tiny")
    policy = Policy.load(str(registry.fetch(entry.version)))
    lake = str(folder / "lake")
    write(lake, served(policy, WORLD, count, digest=entry.digest, ad_load=0.5, **traffic))
    return registry, entry, lake


class Killed(BaseException):
    """As a signal would end the process."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[RetrainOutcome, Registry, Path]:
    """A retraining that is killed before its gates, and goes on."""
    folder = tmp_path_factory.mktemp("retraining")
    registry, entry, lake = started(folder, 260)
    with pytest.MonkeyPatch.context() as patch:

        def dies(*_: Any) -> None:
            raise Killed

        patch.setattr("trainers.retraining.release.measure", dies)
        with pytest.raises(Killed):
            retrain(config(), lake, registry, entry.version, folder / "work", lambda text: None, now=NOW)
    reports: list[str] = []
    later = NOW + timedelta(hours=1)
    found = retrain(config(), lake, registry, "latest", folder / "work", reports.append, now=later)
    assert "resuming" in reports[0]
    assert not any(text.startswith(("rollouts", "policy")) for text in reports), "finished phases are not repeated"
    return found, registry, folder


@pytest.mark.timeout(600)
def test_the_model_is_registered_with_all_that_decided(outcome: tuple[RetrainOutcome, Registry, Path]) -> None:
    found, registry, folder = outcome
    assert found.entry is not None
    entry = registry.get(found.entry.version)
    assert entry == found.entry
    assert (entry.parent, entry.epoch, entry.run) == ("v0001", 1, str(folder / "work" / "001"))
    assert entry.status == ("candidate" if found.decision.promote else "refused")
    assert entry.log_until == NOW
    gates: Any = {gate["name"]: gate for gate in entry.gates["gates"]}  # type: ignore[union-attr,index,call-overload]
    assert gates["simulator_revenue"]["verdict"] == "not configured"
    for name in ("click_predictor", "offpolicy_revenue", "offpolicy_experience", "answer_quality", "latency"):
        assert gates[name]["figures"], name
    revenue = gates["offpolicy_revenue"]["figures"]
    # what the events hold is enough to reproduce what the serving model did, the ad load included
    assert revenue["disagreement"] == 0.0
    assert 60 < revenue["contexts"] < 140
    assert gates["invalid_insertions"]["figures"]["invalid_per_answer"] == 0.0
    assert entry.metrics["revenue"] is None
    log: Any = entry.metrics["log"]
    assert log["answers"] == 260


@pytest.mark.timeout(600)
def test_a_run_of_the_operator_s_passes_the_same_gates(
    outcome: tuple[RetrainOutcome, Registry, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, folder = outcome
    registry = Registry(tmp_path)
    serving = registry.register(resolve("tiny"), base="tiny")
    shutil.copytree(folder / "work" / "001", tmp_path / "job")
    (tmp_path / "job" / "gates.json").unlink()
    monkeypatch.setattr("trainers.retraining.release.best_epoch", lambda session: 1)
    run = RunDirectory(str(tmp_path / "job"))

    def session(base: Path) -> Session:
        text = run.config_text()
        return Session(parse_config(text, "config", [f"base={base}"]), run)

    with pytest.raises(ConfigError, match="that model wrote the log"):
        register_best(session(resolve("tiny")), config().gates)
    entry = register_best(session(tmp_path / "models" / serving.version), config().gates)
    assert (entry.parent, entry.base, entry.log_until) == (serving.version, "tiny", NOW)
    decision = Decision.from_dict(entry.gates)
    assert entry.status == ("candidate" if decision.promote else "refused")
    assert [gate.name for gate in decision.gates] == [gate.name for gate in found.decision.gates]
    assert next(gate for gate in decision.gates if gate.name == "offpolicy_revenue").figures["disagreement"] == 0.0


@pytest.mark.timeout(600)
def test_killed_after_registering_it_registers_nothing_twice(outcome: tuple[RetrainOutcome, Registry, Path]) -> None:
    found, registry, folder = outcome
    (folder / "work" / "001" / "outcome.json").unlink()
    again = retrain(config(), str(folder / "lake"), registry, "v0001", folder / "work", lambda text: None, now=NOW)
    assert again.entry == found.entry
    assert again.decision.to_dict() == found.decision.to_dict()
    assert [e.version for e in registry.list()] == ["v0001", "v0002"]
    assert len(Attempts(folder / "work").all()) == 1


@pytest.mark.timeout(600)
def test_what_was_read_is_not_new_any_more(outcome: tuple[RetrainOutcome, Registry, Path]) -> None:
    from streaming.lake import TrainingSet

    _, registry, folder = outcome
    attempts, reader = Attempts(folder / "work"), TrainingSet(str(folder / "lake"))
    assert new_since(attempts, None) == NOW
    assert observe(reader, registry.get("v0001"), attempts, config()).new == 0
    no_attempts = Attempts(folder / "elsewhere")
    assert observe(reader, registry.get("v0001"), no_attempts, config()).new == 260
    # drift is looked at where the number alone does not decide, against what the serving model learned from
    drifting = observe(reader, registry.get("v0002"), no_attempts, config(**{"triggers.new_interactions": 999}))
    assert drifting.new == 0, "the candidate has read all of it"


def test_too_little_log_is_refused_and_read_again_later(tmp_path: Path) -> None:
    registry, entry, lake = started(tmp_path, 12)
    with pytest.raises(InputError, match=r"lake: .*wait for more traffic"):
        retrain(config(), lake, registry, entry.version, tmp_path / "work", lambda text: None, now=NOW)
    attempts = Attempts(tmp_path / "work")
    (attempt,) = attempts.all()
    assert attempt.ended is not None
    assert not attempt.ended.promote
    assert attempts.unfinished(entry.version) is None
    assert new_since(attempts, None) is None, "nothing of it was used"
    assert [e.version for e in registry.list()] == ["v0001"]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    entry = registry.register(resolve("tiny"), base="tiny")
    with Attempts(tmp_path / "work").lock(), pytest.raises(InputError, match="work"):
        retrain(config(), "lake", registry, entry.version, tmp_path / "work", lambda text: None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_shuffled_clicks_are_refused_without_the_truth(tmp_path: Path) -> None:
    registry, entry, lake = started(tmp_path, 1200, shuffled=True)
    found = retrain(config(), lake, registry, entry.version, tmp_path / "work", lambda text: None, now=NOW)
    assert not found.promote
    assert found.entry is None or found.entry.status == "refused"
    assert {g.name: g.verdict for g in found.decision.gates}["click_predictor"] in ("failed", "refused")
