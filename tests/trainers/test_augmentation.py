"""Unfamiliar contexts: answers still show only the context's offers, and the question or the description says which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mechanism.markers import parse
from mechanism.prompt import PromptSettings, render_messages
from mechanism.types import Context
from simulator.world import Query, World
from trainers.pretraining.augmentation import FAMILIAR, Unfamiliar
from trainers.pretraining.bid_exercises import QUESTION, reading_exercise
from trainers.pretraining.corpus import Exercise, answer_exercise

WORLD = World(0, profiles=80)
KNOWN = {ad.title for ad in WORLD.ads}


def drawn(shares: Unfamiliar, count: int = 60, world: World = WORLD) -> list[Exercise]:
    rng = np.random.default_rng(0)
    queries = world.train_queries
    return [answer_exercise(world, queries[k], 8, 2, None, rng, 0.0, shares) for k in range(count)]


@pytest.mark.parametrize(
    "shares",
    [FAMILIAR, Unfamiliar(), *(replace(FAMILIAR, **{name: 1.0}) for name in ("titles", "needs", "unfiled", "turns"))],
)
def test_answers_show_only_offers_of_their_context(shares: Unfamiliar) -> None:
    shown = 0
    for exercise in drawn(shares):
        for raw in exercise.answers:
            answer = parse(raw, [c.ad for c in exercise.context.candidates])
            assert answer.faults == ()
            shown += len(answer.shown())
    assert shown > 100


def test_new_titles_leave_hardly_a_known_one() -> None:
    titles = [c.ad.title for e in drawn(replace(FAMILIAR, titles=1.0)) for c in e.context.candidates]
    assert np.mean([title in KNOWN for title in titles]) < 0.4
    assert {c.ad.title for e in drawn(FAMILIAR) for c in e.context.candidates} <= KNOWN


def test_a_new_need_stands_in_the_question_the_answer_and_the_offers_that_serve_it() -> None:
    names = {c.name for c in WORLD.categories}
    served = 0
    for exercise in drawn(replace(FAMILIAR, needs=1.0)):
        new = {c.ad.category for c in exercise.context.candidates} - names
        assert len(new) <= 1
        for need in new:
            served += 1
            asked = [exercise.context.query, *(text for _, text in exercise.context.turns)]
            assert any(need in text for text in asked)
            assert need in exercise.answers[0]
            assert not KNOWN & {c.ad.title for c in exercise.context.candidates if c.ad.category == need}
    assert served > 10


def test_an_offer_without_a_category_says_what_it_is() -> None:
    described = [c.ad for e in drawn(replace(FAMILIAR, unfiled=1.0)) for c in e.context.candidates if not c.ad.category]
    assert len(described) > 100
    assert all(ad.text for ad in described)
    settings = PromptSettings(instructions="brief", described=True)
    exercise = drawn(replace(FAMILIAR, unfiled=1.0))[0]
    assert render_messages(exercise.context, settings)


def test_earlier_turns_hold_no_markers() -> None:
    contexts = [e.context for e in drawn(replace(FAMILIAR, turns=1.0))]
    assert all([role for role, _ in c.turns] == ["user", "assistant"] for c in contexts)
    assert not any("@" in text for c in contexts for _, text in c.turns)


class OtherBids(World):
    """The same world; whatever was bid, other bids are seen, at no cost in random numbers."""

    def sample_context(self, query: Query, rng: np.random.Generator, candidates: int = 20) -> Context:
        context = super().sample_context(query, rng, candidates)
        return context.with_bids({c.ad.id: 1_010_000 - c.bid for c in context.candidates})


def test_nothing_unfamiliar_depends_on_a_bid() -> None:
    assert [e.answers for e in drawn(Unfamiliar())] == [
        e.answers for e in drawn(Unfamiliar(), world=OtherBids(0, profiles=80))
    ]


def test_reading_exercises_on_new_titles_have_the_same_one_answer() -> None:
    asked = 0
    for k in range(40):
        exercise = reading_exercise(
            WORLD, WORLD.train_queries[k], 20, np.random.default_rng(k), Unfamiliar(1.0, 0.5, 0.0, 0.0)
        )
        offers = [c for c in exercise.context.candidates]
        assert exercise.context.query == QUESTION
        for opening, raw in zip(exercise.given, exercise.answers, strict=True):
            needs = None if opening == "Most:" else opening.removeprefix("For ").removesuffix(":").split(" or ")
            own = [o for o in offers if needs is None or o.ad.category in needs]
            highest = max(o.bid for o in own)
            assert parse(raw, [o.ad for o in offers]).shown() == tuple(o.ad.id for o in own if o.bid == highest)
            asked += 1
    assert asked > 150
