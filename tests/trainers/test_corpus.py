"""The supervised corpus writes valid markers only, and weighs bids exactly as often as configured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mechanism.markers import parse
from mechanism.types import Context
from simulator.world import Query, World
from trainers.pretraining.corpus import (
    NO_PROFILE,
    Exercise,
    answer_exercise,
    context_fit,
    draw_context,
    judged_fit,
)

WORLD = World(0, profiles=80)


class OtherBids(World):
    """The same world; whatever was bid, other bids are seen, at no cost in random numbers."""

    def sample_context(self, query: Query, rng: np.random.Generator, candidates: int = 20) -> Context:
        context = super().sample_context(query, rng, candidates)
        return context.with_bids({c.ad.id: 1_010_000 - c.bid for c in context.candidates})


def exercises(world: World, count: int, seed: int = 0, relevance: Any = None, heeded: float = 0.0) -> list[Exercise]:
    rng = np.random.default_rng(seed)
    queries = world.train_queries
    return [answer_exercise(world, queries[k % len(queries)], 8, 2, relevance, rng, heeded) for k in range(count)]


def chosen_by_bid(heeded: float) -> tuple[float, float, float]:
    """Shares of the offers above and below the median bid that are shown, and a standard error of their difference."""
    chosen, bids = [], []
    for exercise in exercises(WORLD, 500, 2, np.ones(len(WORLD.ads)), heeded):
        shown = {i for raw in exercise.answers for i in parse(raw, [c.ad for c in exercise.context.candidates]).shown()}
        chosen += [c.ad.id in shown for c in exercise.context.candidates]
        bids += [c.bid for c in exercise.context.candidates]
    high, picked = np.array(bids) > np.median(bids), np.array(chosen)
    error = float(np.sqrt(picked.mean() * (1 - picked.mean()) * 4 / len(picked)))
    return float(picked[high].mean()), float(picked[~high].mean()), error


def test_answers_hold_valid_markers_of_the_contexts_candidates_only() -> None:
    shown = 0
    for exercise in exercises(WORLD, 150):
        for raw in exercise.answers:
            answer = parse(raw, [c.ad for c in exercise.context.candidates])
            assert answer.faults == ()
            assert "@" not in answer.text
            assert len(answer.insertions) == len(answer.shown())
            shown += len(answer.shown())
    assert shown > 300


def test_answers_are_word_for_word_the_same_under_other_bids() -> None:
    fit = np.random.default_rng(3).random(len(WORLD.ads))
    one, other = exercises(WORLD, 80, 1, fit), exercises(OtherBids(0, profiles=80), 80, 1, fit)
    assert [e.answers for e in one] == [e.answers for e in other]
    assert all(a.context.bids() != b.context.bids() for a, b in zip(one, other, strict=True))


def test_a_blind_corpus_shows_low_bids_as_often_as_high_ones() -> None:
    high, low, error = chosen_by_bid(0.0)
    assert abs(high - low) < 4 * error


def test_a_heeding_corpus_shows_high_bids_more_often() -> None:
    high, low, error = chosen_by_bid(1.0)
    assert high - low > 4 * error


def test_relevance_raises_the_chance_of_an_offer() -> None:
    fit = np.zeros(len(WORLD.ads))
    fit[::2] = 1.0
    liked = {ad.id for ad in WORLD.ads[::2]}
    shown = [
        ad_id
        for exercise in exercises(WORLD, 100, 4, fit)
        for raw in exercise.answers
        for ad_id in parse(raw, [c.ad for c in exercise.context.candidates]).shown()
    ]
    assert np.mean([i in liked for i in shown]) > 0.7


def test_the_judged_fit_prefers_the_ads_of_the_need_and_of_the_interests() -> None:
    for query in WORLD.train_queries[:20]:
        fit = judged_fit(WORLD, query)
        assert np.all((fit >= 0) & (fit <= 1))
        wanted = {query.category, query.also, *query.profile.interests}
        own = [k for k, ad in enumerate(WORLD.ads) if ad.category in wanted]
        assert fit[own].mean() > 2 * np.delete(fit, own).mean()
        context = draw_context(WORLD, query, 100, np.random.default_rng(0))
        anonymous = context_fit(replace(context, profile=None), WORLD.ads)
        assert np.all(anonymous <= fit + 1e-6)
        assert not np.allclose(anonymous, fit)


@pytest.mark.parametrize("candidates", [1, 5, 20, 100])
def test_contexts_have_the_asked_number_of_offers_in_catalogue_order(candidates: int) -> None:
    rng = np.random.default_rng(5)
    order = {ad.id: k for k, ad in enumerate(WORLD.ads)}
    contexts = [draw_context(WORLD, q, candidates, rng) for q in WORLD.train_queries[:60]]
    for context in contexts:
        numbers = [order[c.ad.id] for c in context.candidates]
        assert len(numbers) == candidates
        assert numbers == sorted(set(numbers))
    assert 0 < sum(c.profile is None for c in contexts) < 4 * NO_PROFILE * len(contexts)
