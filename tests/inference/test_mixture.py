"""Mixtures of prompts: one voice is the policy itself, weights are shares, and no answer is malformed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from inference.mixture import Voice, generate_mixed
from inference.naming import naming_probabilities
from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler, score
from mechanism.errors import InputError

from .conftest import make_context

WIDE = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=40)


def test_one_voice_writes_with_the_policys_own_probabilities(worded: Policy) -> None:
    context = make_context(["Nest", "Kestrel", "Oak & Elm"])
    settings = replace(WIDE, temperature=0.8, top_k=30)
    drawn = generate_mixed(worded, [context] * 20, [[Voice(context, 1.0)]] * 20, 1, settings)
    for generation, scored in zip(drawn, score(Sampler(worded, settings), [context] * 20, drawn), strict=True):
        assert generation.logprob == pytest.approx(scored.logprob, abs=2e-4 * (1 + len(generation.token_ids)))
    assert any(g.answer.insertions for g in drawn)


def test_a_mixture_has_the_probability_of_its_weighted_voices_at_the_first_token(worded: Policy) -> None:
    contexts = [make_context(["Nest"]), make_context(["Kestrel"], query="And boots?")]
    both = make_context(["Nest", "Kestrel"])
    one_token = replace(WIDE, max_new_tokens=1)
    voices = [Voice(contexts[0], 0.25), Voice(contexts[1], 0.75)]
    for generation in generate_mixed(worded, [both] * 30, [voices] * 30, 2, one_token):
        own = [score(Sampler(worded, one_token), [c], [generation])[0].logprob for c in contexts]
        expected = 0.25 * math.exp(own[0]) + 0.75 * math.exp(own[1])
        assert math.exp(generation.logprob) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("style", ["worded", "fused"])
def test_mixtures_write_whole_markers_of_their_candidates(request: pytest.FixtureRequest, style: str) -> None:
    policy: Policy = request.getfixturevalue(style)
    both = make_context(["Nest", "Kestrel Shoes"])
    alone = [replace(both, candidates=(c,)) for c in both.candidates]
    voices = [[Voice(c, 0.5) for c in alone], [Voice(alone[0], 1.0)]] * 30
    drawn = generate_mixed(policy, [both, both] * 30, voices, 3, WIDE)
    assert drawn == generate_mixed(policy, [both, both] * 30, voices, 3, WIDE)
    assert all(g.answer.faults == () for g in drawn)
    assert {ad for g in drawn for ad in g.answer.shown()} == {"A1", "A2"}
    with pytest.raises(InputError, match="sum to 1"):
        generate_mixed(policy, [both], [[Voice(both, 0.4)]], 3, WIDE)


def test_naming_probabilities_are_those_of_a_forced_marker(worded: Policy) -> None:
    context = make_context(["Kestrel", "Kestrel Shoes", "Nest", "A1"])
    lead = "Try @"
    named = naming_probabilities(worded, [context], [lead])[0]
    assert sum(named.values()) == pytest.approx(1.0)
    opening = replace(worded.generate([context], 1, 0, replace(WIDE, max_new_tokens=1))[0][0], token_ids=())
    opened = replace(opening, token_ids=tuple(worded.text_ids(lead)), logprob=0.0, choices=())
    settings = replace(WIDE, max_ads=1)
    drawn = worded.generate([context], 400, seed=1, settings=settings, openings=[opened])[0]
    for ad_id, probability in named.items():
        share = sum(g.choices[0].chosen == ad_id for g in drawn) / 400
        assert abs(share - probability) < 4 * (probability * (1 - probability) / 400) ** 0.5 + 1e-3
    with pytest.raises(InputError, match="lead"):
        naming_probabilities(worded, [context], ["Try it"])
