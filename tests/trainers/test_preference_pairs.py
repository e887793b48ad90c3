"""Winners and losers by reward: exact differences, a strict threshold, and fresh bids for counterfactual groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.markers import parse, render_marker
from mechanism.objective import Penalty, reward
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Ad, Candidate, Context, Generation
from trainers.artifacts.sampled import Sampled
from trainers.config import PreferenceConfig
from trainers.irpo.preference_pairs import build_groups, redraw_bids, rewards_of

ADS = tuple(Ad(f"a{k}", f"Brand {k}", "tea", "seller") for k in range(4))
FREE = Penalty(per_ad=0, per_extra_ad=0, per_fault=0)


def context_of(points: tuple[int, ...] = (10, 20, 30, 40)) -> Context:
    pairs = tuple(Candidate(ad, p * MICROS_PER_POINT) for ad, p in zip(ADS, points, strict=True))
    return Context("c", "Which tea?", pairs)


def answer_with(*numbers: int) -> Generation:
    text = " ".join(f"Try {render_marker(ADS[k])}." for k in numbers) or "No idea."
    return Generation(parse(text, ADS), (1,), -1.0)


def groups_of(answers: list[tuple[int, ...]], ctr: float = 0.5, **settings: Any) -> Any:
    sampled = [Sampled(context_of(), tuple(answer_with(*a) for a in answers))]
    predicted = [[dict.fromkeys(g.answer.shown(), ctr) for g in sampled[0].generations]]
    config = PreferenceConfig.model_validate({"delta": 10.0, **settings})
    return build_groups(sampled, predicted, config, FREE, np.random.default_rng(0))


def test_the_best_answer_wins_and_loses_to_none() -> None:
    (group,) = groups_of([(0,), (3,), (), (2,)], delta=4.0)
    assert group.rewards == (5.0, 20.0, 0.0, 15.0)
    assert group.winner == 1
    assert group.losers == (0, 2, 3)


def test_a_difference_of_exactly_delta_makes_no_loser() -> None:
    (group,) = groups_of([(3,), (2,), (1,)], delta=5.0)
    assert group.losers == (2,)
    assert groups_of([(3,), (2,)], delta=5.0) == []


def test_equal_answers_make_no_group() -> None:
    assert groups_of([(1,), (1,), (1,)], delta=0.0) == []


def test_the_penalty_counts_in_rewards() -> None:
    penalty, context = Penalty(per_ad=7), context_of()
    answers = [answer_with(0, 1).answer, answer_with().answer]
    ctr = [{"a0": 0.5, "a1": 0.25}, {}]
    assert rewards_of(context, answers, ctr, penalty, 1.0) == [5.0 + 5.0 - 14.0, 0.0]
    assert rewards_of(context, answers, ctr, penalty, 0.5) == [3.0, 0.0]


def test_lost_quality_counts_in_rewards_where_it_has_a_weight() -> None:
    context, answers = context_of(), [answer_with(1).answer, answer_with(1).answer]
    ctr = [{"a1": 0.5}] * 2
    assert rewards_of(context, answers, ctr, FREE, 1.0, [1.0, 0.25], 40.0) == [10.0, 10.0 - 30.0]
    assert rewards_of(context, answers, ctr, FREE, 1.0, [1.0, 0.25]) == [10.0, 10.0]
    with pytest.raises(InputError, match=r"qualities.*preference\.quality_weight"):
        rewards_of(context, answers, ctr, FREE, 1.0, None, 40.0)


def test_quality_can_decide_the_winner() -> None:
    sampled = [Sampled(context_of(), (answer_with(3), answer_with(2)))]
    ctr = [[{"a3": 0.5}, {"a2": 0.5}]]
    for weight, winner in ((0.0, 0), (40.0, 1)):
        config = PreferenceConfig(delta=1.0, quality_weight=weight)
        rng = np.random.default_rng(0)
        (group,) = build_groups(sampled, ctr, config, FREE, rng, qualities=[[0.5, 1.0]])
        assert group.winner == winner


def test_groups_of_every_answer_keep_those_within_delta() -> None:
    sampled = [Sampled(context_of(), tuple(answer_with(k) for k in (0, 3, 2)))]
    ctr = [[{"a0": 0.5}, {"a3": 0.5}, {"a2": 0.5}]]
    config = PreferenceConfig(delta=100.0, losers=1)
    (group,) = build_groups(sampled, ctr, config, FREE, np.random.default_rng(0), every_answer=True)
    assert (group.winner, group.losers, group.rewards) == (1, (0, 2), (5.0, 20.0, 15.0))
    equal = [Sampled(context_of(), (answer_with(1), answer_with(1)))]
    rates = [[{"a1": 0.5}, {"a1": 0.5}]]
    assert build_groups(equal, rates, config, FREE, np.random.default_rng(0), every_answer=True) == []


def test_counterfactual_bids_change_winners_and_are_in_the_groups_contexts() -> None:
    groups = groups_of([(0,), (1,), (2,), (3,)], delta=1.0, counterfactual_bids=40)
    assert len(groups) > 30
    assert groups[0].context == context_of()
    assert {g.winner for g in groups} == {0, 1, 2, 3}
    for group in groups:
        assert group.context.query == "Which tea?"
        assert [c.ad for c in group.context.candidates] == list(ADS)
        bids = [c.bid // MICROS_PER_POINT for c in group.context.candidates]
        assert group.rewards == tuple(b * 0.5 for b in bids)
        assert group.winner == int(np.argmax(bids))


@given(st.integers(0, 10_000))
def test_redrawn_bids_are_whole_points_within_1_to_100(seed: int) -> None:
    drawn = redraw_bids(context_of(), np.random.default_rng(seed)).bids()
    assert set(drawn) == {ad.id for ad in ADS}
    assert all(bid % MICROS_PER_POINT == 0 and 1 <= bid // MICROS_PER_POINT <= 100 for bid in drawn.values())


@given(
    answers=st.lists(st.lists(st.integers(0, 3), max_size=3, unique=True), min_size=1, max_size=5),
    delta=st.floats(0, 40),
    vectors=st.integers(0, 3),
    most=st.none() | st.integers(1, 3),
)
def test_losers_are_among_those_beaten_by_more_than_delta(
    answers: list[list[int]], delta: float, vectors: int, most: int | None
) -> None:
    generations = tuple(answer_with(*a) for a in answers)
    ctr = [{ad_id: 0.1 + 0.2 * k for k, ad_id in enumerate(g.answer.shown())} for g in generations]
    sampled = [Sampled(context_of(), generations)]
    config = PreferenceConfig(delta=delta, lam=0.3, counterfactual_bids=vectors, losers=most)
    groups = build_groups(sampled, [ctr], config, Penalty(), np.random.default_rng(1))
    assert len(groups) <= 1 + vectors
    for group in groups:
        bids = group.context.bids()
        own = [reward(g.answer, bids, p, Penalty(), 0.3) for g, p in zip(generations, ctr, strict=True)]
        assert list(group.rewards) == pytest.approx(own)
        assert own[group.winner] == max(own)
        beaten = {m for m, r in enumerate(own) if max(own) - r > delta}
        assert set(group.losers) <= beaten
        assert len(set(group.losers)) == len(group.losers) == min(len(beaten), most or len(beaten))
        assert group.losers
