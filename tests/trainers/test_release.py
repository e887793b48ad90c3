"""The best epoch of a run becomes one registry entry, once, and a run without a good epoch becomes none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inference.policy import Policy
from mechanism.errors import AuctionError
from mechanism.markers import render_marker
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import RunConfig, dump_config
from trainers.irpo.evaluation_phase import VALIDATION
from trainers.irpo.loop import best_epoch
from trainers.irpo.session import Session
from trainers.irpo.temperature import SAMPLING, choose_temperature, chosen_temperature, served_policy
from trainers.retraining.release import register_best, registry_of

FIGURES = {
    "revenue": 10.0,
    "true_reward": 5.0,
    "learned_reward": 5.0,
    "ads_per_answer": 1.0,
    "faults_per_answer": 0.0,
    "kl_to_base": 1.0,
    "answers": 4,
}


def a_run(folder: Path, base: Path, good: set[int], epochs: int = 2) -> Session:
    """A finished run on true probabilities: epochs in `good` show the most relevant ad, the others show none."""
    config = RunConfig.model_validate(
        {
            "name": "small",
            "base": str(base),
            "epochs": epochs,
            "reward": {"source": "oracle"},
            "guards": {"min_ads_per_answer": 0},
            "evaluation": {"validation": 4},
        }
    )
    session = Session(config, RunDirectory(folder))
    session.run.create(dump_config(config))
    contexts = session.contexts.validation()
    for epoch in range(epochs + 1):
        raw = ["Nothing to show." for _ in contexts]
        if epoch in good:
            for k, context in enumerate(contexts):
                ads = [c.ad for c in context.candidates]
                best = ads[int(session.truth.relevance(context, ads).argmax())]
                raw[k] = f"On that: {context.query} a solid choice is {render_marker(best)}."
        if epoch > 0:
            with session.run.phase("policy", epoch).open() as staging:
                shutil.copytree(base, staging, dirs_exist_ok=True)
        session.run.write_json(f"epoch-{epoch:03d}/{VALIDATION}", raw)
        session.run.write_json(f"epoch-{epoch:03d}/evaluation.json", FIGURES)
    return session


def penalty_free(session: Session) -> Session:
    """Rewards without the price of an ad, so that a shown ad is worth something whatever its bid."""
    config = session.config.model_copy(update={"penalty": session.config.penalty.model_copy(update={"per_ad": 0.0})})
    return Session(config, session.run)


def test_the_best_epoch_is_registered_once(tmp_path: Path, small_base: Path) -> None:
    session = penalty_free(a_run(tmp_path / "runs" / "small", small_base, good={1}))
    assert best_epoch(session) == 1
    entry = register_best(session)
    assert (entry.epoch, entry.base, entry.version) == (1, str(small_base), "v0001")
    assert register_best(session) == entry
    assert len(registry_of(session.run.url).list()) == 1
    assert (registry_of(session.run.url).fetch(entry.version) / "model.safetensors").is_file()


def test_a_run_that_is_nowhere_better_than_its_base_registers_nothing(tmp_path: Path, small_base: Path) -> None:
    session = penalty_free(a_run(tmp_path / "runs" / "small", small_base, good={0}))
    assert best_epoch(session) == 0
    with pytest.raises(AuctionError, match="no epoch of this run is better than its base"):
        register_best(session)
    assert registry_of(session.run.url).list() == ()


def test_the_best_epoch_is_served_at_the_temperature_that_earned_most(tmp_path: Path, small_base: Path) -> None:
    session = a_run(tmp_path / "runs" / "small", small_base, good={1})
    session.run.write_json(SAMPLING, {"epoch": 1, "temperature": 0.25, "rewards": {"0.25": 2.0}})
    assert served_policy(session, 1).sampling.temperature == 0.25
    assert served_policy(session, 2).sampling == session.policy(2).sampling
    entry = register_best(session)
    folder = registry_of(session.run.url).fetch(entry.version)
    assert Policy.load(str(folder)).sampling == served_policy(session, 1).sampling


def test_temperatures_are_tried_on_the_best_epoch_and_written_down(tmp_path: Path, small_base: Path) -> None:
    session = a_run(tmp_path / "runs" / "small", small_base, good={1})
    with session.run.phase("reward_model", 1).open() as folder:
        (folder / "figures.json").write_text("{}", encoding="utf-8")
    tried = session.config.evaluation.model_copy(update={"temperatures": (1.0, 0.1)})
    session.config = session.config.model_copy(update={"evaluation": tried})
    choose_temperature(session, 1)
    noted = session.run.read_json(SAMPLING)
    assert set(noted["rewards"]) == {"1.0", "0.1"}
    assert noted["rewards"][str(noted["temperature"])] == max(noted["rewards"].values())
    assert chosen_temperature(session, 1) == noted["temperature"]
    assert chosen_temperature(session, 2) is None
