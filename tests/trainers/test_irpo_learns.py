"""IRPO raises the true reward, because of what the click predictor learned: not with shuffled labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mechanism.objective import reward
from mechanism.statistics import Interval, bootstrap_interval
from mechanism.types import AdId
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import parse_config
from trainers.irpo import answer_phases
from trainers.irpo.feedback import Click, Shown, simulated_clicks
from trainers.irpo.loop import train
from trainers.irpo.session import Session

SMALL_WORLD = """
name: small-world
base: tiny
epochs: 1
world: {candidates: 4}
feedback: {contexts: 150, answers: 2}
reward: {batch: 64, members: 1}
rollout: {contexts: 90, samples: 5, temperature: 1.0}
penalty: {per_ad: 5.0}
preference: {delta: 5.0, losers: 3, counterfactual_bids: 1}
optimisation: {loss: margin, learning_rate: 4.0e-4, beta: 0.25, batch: 8, batch_per_process: 8}
guards: {reward_hacking_drop: 10.0, min_ads_per_answer: 0.0}
evaluation: {validation: 8}
"""
CONTEXTS, ANSWERS = 60, 2


def trained(folder: Path) -> Session:
    session = Session(parse_config(SMALL_WORLD, "test"), RunDirectory(folder))
    train(session)
    return session


def true_rewards(session: Session, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the mean true reward of an epoch's answers to each held-out context, shape (contexts,)."""
    contexts = session.test_contexts(CONTEXTS)
    answers = session.policy(epoch).generate(contexts, ANSWERS, 5)
    return np.array(
        [
            np.mean(
                [
                    reward(g.answer, c.bids(), session.truth.probabilities(c, g.answer), session.penalty)
                    for g in answers[k]
                ]
            )
            for k, c in enumerate(contexts)
        ]
    )


def gain(ours: Session, theirs: Session, their_epoch: int) -> Interval:
    return bootstrap_interval(true_rewards(ours, 1) - true_rewards(theirs, their_epoch), 0)


def shuffled_clicks(truth: object, seed: int) -> Click:
    """Return users whose clicks fall on any of the shown ads, as many as the true ones."""
    honest = simulated_clicks(truth, seed)  # type: ignore[arg-type]

    def click(shown: Shown) -> list[Mapping[AdId, bool]]:
        clicked = honest(shown)
        hits = [hit for own in clicked for hit in own.values()]
        drawn = iter(np.random.default_rng(seed).permutation(hits).tolist())
        return [{ad_id: next(drawn) for ad_id in own} for own in clicked]

    return click


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return trained(tmp_path_factory.mktemp("learned"))


def test_one_epoch_raises_the_true_reward(learned: Session) -> None:
    better = gain(learned, learned, 0)
    assert better.lo > 0, better


def test_shuffled_labels_teach_less(learned: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_phases, "simulated_clicks", shuffled_clicks)
    misled = trained(tmp_path)
    better = gain(learned, misled, 1)
    assert better.lo > 0, better
