"""Edited answers are what the decoder would write, differ from a sampled one in its ads only, and can be learned."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.markers import parse, render_marker
from mechanism.types import Context, Generation
from tests.inference.conftest import blank_tokenizer, byte_tokenizer, decided_tokens, make_context, random_policy
from trainers.artifacts.sampled import Sampled
from trainers.config import PreferenceConfig
from trainers.irpo.edited_answers import markers_of, remove_ad, swap_ad, with_edits
from trainers.optimisation.groups import token_group

STYLES = ("worded", "fused", "blanked")
CONTEXT = make_context(["Nest", "A1", "Kestrel", "Kestrel Shoes", "Oak & Elm"])
FREE = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=160)


@cache
def policy_of(style: str) -> Policy:
    tokenizer = blank_tokenizer() if style == "blanked" else byte_tokenizer(words=style == "worded")
    return random_policy(tokenizer)


def written(policy: Policy, *parts: str | int, context: Context = CONTEXT) -> Generation:
    """An answer as the decoder writes it: text, and markers of the candidates with the given numbers."""
    vocabulary = policy.vocabulary
    mark = min(vocabulary.openers, key=lambda i: (len(vocabulary.decode([i])), i))
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += policy.text_ids(part)
        else:
            tokens += [mark, *vocabulary.body(context.candidates[part].ad)]
    answer = parse(vocabulary.decode(tokens), [c.ad for c in context.candidates])
    return Generation(answer, tuple(tokens), -1.0)


def edited(policy: Policy, generations: list[Generation], seed: int = 0, **counts: Any) -> list[Generation]:
    config = PreferenceConfig.model_validate({"edited": len(generations), **counts})
    sampled = Sampled(CONTEXT, tuple(generations))
    result = with_edits(sampled, policy, FREE, config, np.random.default_rng(seed))
    assert result.generations[: len(generations)] == sampled.generations
    return list(result.generations[len(generations) :])


@pytest.mark.parametrize("style", STYLES)
def test_a_swap_changes_one_ad_and_no_word(style: str) -> None:
    policy = policy_of(style)
    source = written(policy, "Good shoes help. Try ", 0, " on muddy trails, or ", 3, " in town.")
    assert source.answer.shown() == ("A1", "A4")
    swaps = edited(policy, [source], swaps=6)
    assert len(swaps) == 6
    seen = {g.answer.shown() for g in swaps}
    assert len(seen) == 6  # each of two ads against each of three others
    for generation in swaps:
        answer = generation.answer
        assert answer.faults == ()
        assert len(set(answer.shown()) & {"A1", "A4"}) == 1
        for ad_id in answer.shown():
            ad = next(c.ad for c in CONTEXT.candidates if c.ad.id == ad_id)
            assert render_marker(ad) in answer.raw
        assert answer.struck(0, len(answer.text)) == source.answer.struck(0, len(source.answer.text))
        assert generation.finished


def test_a_removal_takes_the_sentence_of_an_ad_and_leaves_the_rest() -> None:
    policy = policy_of("worded")
    source = written(policy, "Good shoes help. Try ", 0, " on muddy trails. See ", 3, " in town. Rest well.")
    removals = edited(policy, [source], removals=5)
    texts = {g.answer.text for g in removals}
    assert texts == {
        "Good shoes help. See Kestrel Shoes in town. Rest well.",
        "Good shoes help. Try Nest on muddy trails. Rest well.",
    }
    assert {g.answer.shown() for g in removals} == {("A4",), ("A1",)}


def test_sentences_that_a_token_joins_are_removed_together() -> None:
    policy = policy_of("fused")
    source = written(policy, "Good shoes help. Try ", 0, " on muddy trails. See ", 3, " in town. Rest well.")
    assert ". S" in {policy.vocabulary.decode([i]) for i in source.token_ids}
    assert {g.answer.text for g in edited(policy, [source], removals=5)} == {"Good shoes help. Rest well."}


def test_a_sentence_that_opens_the_answer_or_is_all_of_it_stays() -> None:
    policy = policy_of("worded")
    assert edited(policy, [written(policy, "Try ", 0, " today. Rest well.")], removals=3) == []
    assert edited(policy, [written(policy, "Try ", 0, " today.")], removals=3) == []
    assert edited(policy, [written(policy, "Rest well.")], removals=3, swaps=3) == []


def test_a_mark_inside_of_a_title_ends_no_sentence() -> None:
    policy = policy_of("worded")
    context = make_context(["What? No. Shoes", "Nest"])
    source = written(policy, "Look. Buy ", 0, " now. Rest.", context=context)
    tokens = remove_ad(policy.vocabulary, context, source.token_ids, np.random.default_rng(0))
    assert tokens is not None
    assert policy.vocabulary.decode(tokens) == "Look. Rest."


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_edits_of_any_sampled_answer_can_be_learned_and_read_back(style: str, seed: int) -> None:
    policy, short = policy_of(style), replace(FREE, max_new_tokens=36)
    sampled = Sampled(CONTEXT, tuple(policy.generate([CONTEXT], 4, seed, short)[0]))
    config = PreferenceConfig(edited=2, swaps=3, removals=2)
    result = with_edits(sampled, policy, short, config, np.random.default_rng(seed))
    added = result.generations[4:]
    assert len(added) <= 2 * 5
    assert len({g.token_ids for g in added} - {g.token_ids for g in sampled.generations}) == len(added)
    for generation in added:
        answer = generation.answer
        assert answer == parse(policy.vocabulary.decode(generation.token_ids), [c.ad for c in CONTEXT.candidates])
        assert answer.faults == ()
        markers = markers_of(policy.vocabulary, CONTEXT, generation.token_ids)
        assert [m.ad for m in markers] == [i.ad_id for i in answer.insertions]
        assert len(policy.answer_ids(generation)) <= short.max_new_tokens
    group = token_group(policy, CONTEXT, added, [0.0] * len(added), short)
    for own, generation in zip(group.decided, added, strict=True):
        assert own == decided_tokens(policy, CONTEXT, generation)


def test_without_counts_or_without_the_constraint_nothing_is_edited() -> None:
    policy = policy_of("worded")
    sampled = Sampled(CONTEXT, (written(policy, "Try ", 0, "."),))
    rng = np.random.default_rng(0)
    assert with_edits(sampled, policy, FREE, PreferenceConfig(), rng) is sampled
    unconstrained = replace(FREE, constrained=False)
    config = PreferenceConfig(edited=1, swaps=3)
    assert with_edits(sampled, policy, unconstrained, config, rng) is sampled


def test_answers_with_ads_are_edited_first() -> None:
    policy = policy_of("worded")
    plain, with_ad = written(policy, "Rest well."), written(policy, "Good shoes help. Try ", 0, " today.")
    sampled = Sampled(CONTEXT, (plain, plain, with_ad, plain))
    config = PreferenceConfig(edited=1, swaps=2, removals=1)
    result = with_edits(sampled, policy, FREE, config, np.random.default_rng(0))
    swapped, other, removed = result.generations[4:]
    assert {len(g.answer.shown()) for g in (swapped, other)} == {1}
    assert removed.answer.text == "Good shoes help."


def test_a_swap_needs_another_candidate() -> None:
    policy, context = policy_of("worded"), make_context(["Nest"])
    source = written(policy, "Try ", 0, ".", context=context)
    assert swap_ad(policy.vocabulary, context, source.token_ids, np.random.default_rng(0)) is None
