"""The supervised warm start from the answers that a data set holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference.policy import Policy
from mechanism.errors import ConfigError
from mechanism.markers import parse
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import parse_config
from trainers.irpo.session import Session
from trainers.irpo.warm_start import native_exercises, train_warm_start

NEEDS = ("green tea", "a kettle", "oat biscuits", "a teapot", "honey", "a tin for tea", "a small cup", "lemon slices")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two answers to each of some questions, the better one second, and one far too long."""
    rows = []
    for number, need in enumerate(NEEDS):
        name = f"Brand {need.title()}"
        for score, text in (
            (1, "Maybe {}."),
            (5, "For this, {} is a good start."),
            (4, "Buy {} now. " + "Really. " * 200),
        ):
            scores = dict.fromkeys(("q1", "q2", "q3", "q4"), score)
            own = {"ad_name": name, "ad_info": f"Sells {need}.", "ad_label": "", "logic_bridge": "", "strategy": ""}
            row = {"id": f"{number}-{score}", "query": f"where to get {need}?", "category": ["tea"], **own}
            rows.append({**row, "response": text.format(name), "ppied_scores": scores})
    (tmp_path / "NaiAD_main.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def session(folder: Path, *settings: str) -> Session:
    small = ("warm_start.contexts=4", "warm_start.steps=2", "warm_start.answers=1", "world.candidates=4")
    world = ("world.kind=naiad", f"world.path={folder}", "warm_start.source=native")
    return Session(parse_config("name: small", "test", [*world, *small, *settings]), RunDirectory(folder / "run"))


def test_the_best_answers_that_fit_are_learned_with_their_marker(folder: Path) -> None:
    own = session(folder, "rollout.max_new_tokens=64")
    policy = Policy.load(own.base)
    policy.sampling = own.sampling(policy)
    contexts = own.contexts.training(6, 0, 10)
    exercises = native_exercises(own, contexts, policy)
    assert len(exercises) == len(contexts)
    for exercise in exercises:
        (text,) = exercise.answers
        assert text.startswith("For this, @Brand ")
        read = parse(text, [c.ad for c in exercise.context.candidates])
        assert [i.ad_id for i in read.insertions]
        assert not read.faults
    policy.sampling = session(folder, "rollout.max_new_tokens=3").sampling(policy)
    with pytest.raises(ConfigError, match=r"rollout\.max_new_tokens.*raise it"):
        native_exercises(own, contexts, policy)


def test_a_model_is_trained_on_them(folder: Path) -> None:
    own = session(folder, "rollout.max_new_tokens=64")
    loss = train_warm_start(own, folder / "warmed")
    assert 0 < loss < 20
    Policy.load(str(folder / "warmed"))


def test_a_base_that_writes_no_sentence_is_an_error_of_the_configuration(folder: Path) -> None:
    own = session(folder, "warm_start.source=woven", "rollout.max_new_tokens=1")
    with pytest.raises(ConfigError, match=r"rollout\.max_new_tokens.*no plain answer"):
        train_warm_start(own, folder / "warmed")
