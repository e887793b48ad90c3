"""Proposed answers show the ads that were chosen by value, and can be learned under all candidates."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inference.sampling import SamplingSettings
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Ad, Candidate, Context
from tests.inference.conftest import byte_tokenizer, make_context, random_policy
from trainers.irpo.proposals import chosen_ads, propose
from trainers.optimisation.groups import token_group


def context_of(points: list[int], categories: str = "") -> Context:
    ads = [
        Candidate(Ad(f"a{k}", f"Offer {k}", "tea", "seller", category), bid * MICROS_PER_POINT)
        for k, (bid, category) in enumerate(zip(points, categories or [""] * len(points), strict=True))
    ]
    return Context("c", "Which tea?", tuple(ads))


def test_the_first_set_is_the_most_valuable_pair_of_different_needs() -> None:
    context = context_of([50, 90, 60, 40], "xxyz")
    rates = {"a0": 0.9, "a1": 0.9, "a2": 0.5, "a3": 0.1}
    # 45, 81, 30 and 4 points; a0 shares the need of a1.
    assert chosen_ads(context, rates, 1, np.random.default_rng(0)) == [("a1", "a2")]


def test_noise_favours_valuable_ads() -> None:
    context = context_of([100, 60, 10, 10, 10])
    rates = dict.fromkeys((f"a{k}" for k in range(5)), 0.5)
    drawn = [ads for seed in range(40) for ads in chosen_ads(context, rates, 4, np.random.default_rng(seed))]
    shown = [sum(f"a{k}" in ads for ads in drawn) for k in range(5)]
    assert shown[0] > shown[1] > max(shown[2:])
    assert min(shown) > 0


@given(
    points=st.lists(st.integers(0, 100), min_size=1, max_size=6),
    count=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
def test_sets_are_distinct_and_hold_one_or_two_candidates(points: list[int], count: int, seed: int) -> None:
    context = context_of(points)
    sets = chosen_ads(context, {c.ad.id: 0.5 for c in context.candidates}, count, np.random.default_rng(seed))
    assert 1 <= len(sets) <= count
    assert len(set(sets)) == len(sets)
    for ads in sets:
        assert len(ads) in (1, 2)
        assert len(set(ads)) == len(ads)
        assert set(ads) <= {c.ad.id for c in context.candidates}


def test_proposals_show_their_ads_and_have_a_probability_under_all_candidates() -> None:
    policy = random_policy(byte_tokenizer(words=True))
    contexts = [make_context(["Nest", "A1", "Kestrel", "Oak & Elm"]), make_context(["Nest", "Kestrel"])]
    rates = [{c.ad.id: 0.1 * k for k, c in enumerate(context.candidates)} for context in contexts]
    settings = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=80)
    written = propose(policy, contexts, rates, 3, 2, settings, 5)
    for context, answers in zip(contexts, written, strict=True):
        assert answers
        assert len({g.token_ids for g in answers}) == len(answers) <= 6
        assert all(g.answer.faults == () and 1 <= len(g.answer.shown()) <= 2 for g in answers)
        group = token_group(policy, context, answers, [0.0] * len(answers), settings)
        assert all(any(own) for own in group.decided)
    assert propose(policy, contexts, rates, 3, 2, settings, 5) == written
    # The first context's ads are drawn first.
    chosen = chosen_ads(contexts[0], rates[0], 3, np.random.default_rng(5))
    assert {frozenset(g.answer.shown()) for g in written[0]} <= {frozenset(ads) for ads in chosen}
