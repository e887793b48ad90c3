"""A logged answer gets back the very tokens that were sampled, as off-policy weights need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inference.policy import Policy
from simulator.world import World
from trainers.gates.measure import _with_tokens


def test_the_tokens_of_logged_answers_are_those_that_the_shipped_model_wrote() -> None:
    world, rng, policy = World(profiles=30), np.random.default_rng(0), Policy.load("tiny")
    contexts = [world.sample_context(query, rng, 6) for query in world.train_queries[:24]]
    written = [own[0] for own in policy.generate(contexts, 1, 0, replace(policy.sampling, max_ads=3))]
    assert sum(len(answer.answer.insertions) for answer in written) > 10
    same = [_with_tokens(answer, policy).token_ids == answer.token_ids for answer in written]
    assert all(same)
