"""A base model for tests: a Llama of a few thousand parameters, taught for a few seconds to write answers with ads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models this small are slower on two threads than on one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model, in Hugging Face layout with `policy.json`."""
    from simulator.world import World
    from trainers.pretraining.corpus import answer_exercise
    from trainers.pretraining.supervised import SupervisedSettings, TokenisedExercise, train_supervised
    from trainers.pretraining.tiny_model import Recipe, new_policy, train_tokenizer

    recipe = Recipe(vocabulary=600, width=32, layers=2, heads=2, feed_forward=64)
    world = World(0, profiles=30)
    policy = new_policy(train_tokenizer(world, recipe, 200), recipe)
    policy.sampling = replace(policy.sampling, max_new_tokens=40)
    rng = np.random.default_rng(0)

    def batch() -> list[TokenisedExercise]:
        exercises = [answer_exercise(world, world.train_queries[k], 4, 2, None, rng) for k in rng.integers(120, size=6)]
        written = [[policy.text_ids(a)[:40] for a in e.answers] for e in exercises]
        return [
            TokenisedExercise(policy.prompt_ids(e.context), own, [[True] * len(a) for a in own])
            for e, own in zip(exercises, written, strict=True)
        ]

    settings = SupervisedSettings(steps=60, learning_rate=1e-2, mixed_precision=False)
    train_supervised(policy.model, (batch() for _ in range(60)), settings, lambda step, loss: None)
    folder = tmp_path_factory.mktemp("base") / "small"
    policy.save(folder)
    return folder
