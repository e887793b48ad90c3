"""Reading exercises have one right answer each, and the accuracy counts whole answers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.policy import Policy
from mechanism.markers import parse
from mechanism.types import Candidate
from simulator.clicks import ClickModel
from simulator.world import World
from trainers.pretraining.bid_exercises import KINDS, QUESTION, questions, reading_accuracy, reading_exercise
from trainers.pretraining.corpus import answer_exercise
from trainers.pretraining.new_titles import shown_under_new_titles
from trainers.pretraining.supervised import TokenisedExercise
from trainers.pretraining.tiny_model import Recipe, new_policy

WORLD = World(0, profiles=80)


def right_answers(given_text: str, offers: list[Candidate]) -> set[str]:
    """Ads that answer a question, found without the code under test."""
    if given_text == "Most:":
        asked = offers
    else:
        needs = given_text.removeprefix("For ").removesuffix(":").split(" or ")
        asked = [o for o in offers if o.ad.category in needs]
        assert {o.ad.category for o in asked} == set(needs)
    highest = max(o.bid for o in asked)
    return {o.ad.id for o in asked if o.bid == highest}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_every_question_has_one_right_answer(seed: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    exercise = reading_exercise(WORLD, WORLD.train_queries[seed % 320], candidates, rng)
    offers = list(exercise.context.candidates)
    assert exercise.context.query == QUESTION
    assert len(offers) == max(2, candidates)
    assert len(exercise.answers) == len(exercise.given)
    for given_text, raw in zip(exercise.given, exercise.answers, strict=True):
        shown = parse(raw, [o.ad for o in offers])
        assert shown.faults == ()
        assert set(shown.shown()) == right_answers(given_text, offers)
        assert len(right_answers(given_text, offers)) == 1


def test_equal_bids_are_not_compared() -> None:
    context = reading_exercise(WORLD, WORLD.train_queries[0], 12, np.random.default_rng(0)).context
    level = context.with_bids({c.ad.id: 500_000 for c in context.candidates})
    asked = questions(level.candidates, np.random.default_rng(1))
    assert {kind for kind, _, _ in asked} <= {"only one for a need"}


def test_openings_are_read_but_not_learned(small_base: Path) -> None:
    policy = Policy.load(str(small_base))
    exercise = reading_exercise(WORLD, WORLD.train_queries[3], 8, np.random.default_rng(2))
    tokens = TokenisedExercise.of(exercise, policy)
    for opening, answer, ids, learned in zip(
        exercise.given,
        exercise.answers,
        tokens.answers_ids,
        [[w > 0 for w in own] for own in tokens.weights],
        strict=True,
    ):
        given_count = learned.index(True)
        assert all(learned[given_count:])
        assert policy.tokenizer.decode(ids[:given_count]) == opening
        # the id is left out: the prompt does not show it
        assert policy.tokenizer.decode(ids[given_count:]) == answer[: answer.index("[") + 1]


def test_ids_that_the_prompt_does_not_show_are_read_and_not_learned(small_base: Path) -> None:
    policy = Policy.load(str(small_base))
    exercise = answer_exercise(WORLD, WORLD.train_queries[3], 8, 6, None, np.random.default_rng(2))
    shown = 0
    tokens = TokenisedExercise.of(exercise, policy)
    for answer, ids, learned in zip(
        exercise.answers, tokens.answers_ids, [[w > 0 for w in own] for own in tokens.weights], strict=True
    ):
        assert policy.tokenizer.decode(ids[:-1]) == answer
        assert ids[-1] == policy.end_tokens[0]
        unlearned = policy.tokenizer.decode([i for i, own in zip(ids, learned, strict=True) if not own])
        assert unlearned == "".join(f"{i}]" for i in re.findall(r"\[(.*?)\]", answer))
        shown += len(unlearned)
    assert shown


def test_a_model_that_was_never_taught_reads_no_comparison(small_base: Path) -> None:
    accuracy = reading_accuracy(Policy.load(str(small_base)), WORLD, 10, 20)
    assert set(accuracy) == set(KINDS)
    assert 60 < accuracy["highest for two needs"][1] <= 80
    assert all(share < 0.5 for share, _ in accuracy.values())


@pytest.mark.parametrize(
    ("new_titles", "least"), [(False, Recipe().least_accuracy), (True, Recipe().least_accuracy_new)]
)
def test_the_shipped_base_reads_bids_whatever_the_offers_are_called(new_titles: bool, least: float) -> None:
    accuracy = reading_accuracy(Policy.load("tiny"), World(0, profiles=200), 20, 64, seed=5, new_titles=new_titles)
    share, count = accuracy["highest for a need"]
    assert count > 100
    assert share >= least


def test_the_shipped_base_shows_an_offer_whose_title_is_new_to_it() -> None:
    world, rng = World(0, profiles=200), np.random.default_rng(3)
    contexts = [world.sample_context(q, rng, 20) for q in world.test_queries[:60]]
    ratio = shown_under_new_titles(Policy.load("tiny"), contexts, ClickModel(), 5).ratio
    assert ratio is not None
    assert ratio.mean >= Recipe().least_new_titles


def test_bids_begin_in_their_order(small_base: Path) -> None:
    recipe = Recipe(vocabulary=600, width=32, layers=2, heads=2, feed_forward=64)
    policy = new_policy(Policy.load(str(small_base)).tokenizer, recipe)
    ids = [policy.tokenizer.convert_tokens_to_ids(f" {bid}@") for bid in (10, 12, 50, 90)]
    low, next_, middle, high = policy.model.get_input_embeddings().weight.detach()[ids]
    assert (low - next_).norm() < (low - middle).norm() < (low - high).norm()
