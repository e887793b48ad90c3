"""The best attainable answer: no answer of the language is better, and it can be written."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, reward
from mechanism.types import Context
from simulator.clicks import ClickModel
from simulator.language import STYLES, Woven, compose, style_of
from simulator.optimum import MOST_ADS, Best, best_answer
from simulator.world import Category, Query, World

WORLD = World(0, profiles=40)
TRUTH = ClickModel()
PENALTY = Penalty(per_ad=5.0)
CONTEXTS = 10


@cache
def auction(number: int) -> tuple[Query, Context, Best]:
    query = WORLD.test_queries[number]
    context = WORLD.sample_context(query, np.random.default_rng([3, number]), 20)
    return query, context, best_answer(WORLD, query, context, TRUTH, PENALTY)


def rewarded(context: Context, raw: str) -> float:
    answer = parse(raw, [c.ad for c in context.candidates])
    return reward(answer, context.bids(), TRUTH.probabilities(context, answer), PENALTY)


def category_of(query: Query) -> tuple[Category, str]:
    category = next(c for c in WORLD.categories if c.name == query.category)
    return category, next((a for a in category.aspects if a in query.text), category.aspects[0])


@settings(max_examples=300, deadline=None, derandomize=True)  # a search proves nothing: no luck may decide
@given(st.data(), st.integers(0, CONTEXTS - 1), st.integers(0, 2**32))
def test_no_composed_answer_is_better(data: st.DataObject, number: int, seed: int) -> None:
    query, context, best = auction(number)
    category, aspect = category_of(query)
    worth = TRUTH.relevance(context, [c.ad for c in context.candidates]) * list(context.bids().values())
    ranked = [context.candidates[int(i)].ad for i in np.argsort(-worth)]
    ads = data.draw(st.lists(st.sampled_from(ranked[:8]), max_size=3, unique=True))
    styles = [data.draw(st.sampled_from(list(STYLES))) for _ in ads]
    woven = [Woven(ad, ad.category, render_marker(ad), style) for ad, style in zip(ads, styles, strict=True)]
    raw = compose(category.name, aspect, category.advice, woven, np.random.default_rng(seed))
    assert rewarded(context, raw) <= best.reward + 1e-9


def test_it_beats_showing_the_two_most_relevant_ads() -> None:
    gains = []
    for number in range(CONTEXTS):
        query, context, best = auction(number)
        category, aspect = category_of(query)
        relevance = TRUTH.relevance(context, [c.ad for c in context.candidates])
        ads = [context.candidates[int(i)].ad for i in np.argsort(-relevance, kind="stable")[:2]]
        asked = (query.category, query.also)
        woven = [Woven(a, a.category, render_marker(a), style_of(asked, a.category, plain=False)) for a in ads]
        raw = compose(category.name, aspect, category.advice, woven, np.random.default_rng(number))
        gains.append(best.reward - rewarded(context, raw))
    assert min(gains) >= -1e-9
    assert np.mean(gains) > 10.0


@pytest.mark.parametrize("number", range(CONTEXTS))
def test_it_can_be_written_and_is_worth_what_it_says(number: int) -> None:
    _, context, best = auction(number)
    assert best.answer == parse(best.answer.raw, [c.ad for c in context.candidates])
    assert best.answer.faults == ()
    assert len(best.answer.insertions) == len(best.answer.shown()) <= MOST_ADS
    assert best.reward == pytest.approx(rewarded(context, best.answer.raw))


def test_it_shows_no_ad_where_none_is_worth_its_penalty() -> None:
    query, context, _ = auction(0)
    best = best_answer(WORLD, query, context, TRUTH, Penalty(per_ad=1_000.0))
    assert (best.answer.shown(), best.reward) == ((), 0.0)
