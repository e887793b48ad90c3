"""Lessons of the shipped adapter: what is offered, what is answered, and which tokens are learned."""

from __future__ import annotations

import numpy as np

from mechanism.markers import parse
from simulator.questions import split_questions
from simulator.world import builtin_categories
from trainers.pretraining.everyday import compose_answer, lessons

TRAINING, HELD_OUT = split_questions()
LESSONS = list(lessons(TRAINING, np.random.default_rng(0)))


def test_every_training_question_with_a_need_is_taught_once_and_no_held_out_one() -> None:
    taught = [q for lesson in LESSONS for q, _ in lesson.questions]
    assert sorted(q.text for q in taught if q.need) == sorted(q.text for q in TRAINING if q.need)
    assert 0.1 <= sum(q.need is None for q in taught) / len(taught) <= 0.25
    assert not {(q.text, q.turns) for q in taught} & {(q.text, q.turns) for q in HELD_OUT}


def test_an_answer_shows_offers_of_its_list_only_and_of_its_own_need() -> None:
    shown = 0
    for lesson in LESSONS:
        ads = [c.ad for c in lesson.candidates]
        need_of = {ad.id: ad.category for ad in ads}
        for question, raw in lesson.questions:
            answer = parse(raw, ads)
            assert answer.faults == ()
            assert len(answer.insertions) <= 2
            assert all(need_of[i.ad_id] == question.need for i in answer.insertions)
            shown += bool(answer.insertions)
    assert 0.25 <= shown / sum(len(lesson.questions) for lesson in LESSONS) <= 0.6


def test_half_of_the_lists_carry_titles_that_no_catalogue_has() -> None:
    known = {ad.title for c in builtin_categories() for ad in c.ads}
    invented = [not known & {c.ad.title for c in lesson.candidates} for lesson in LESSONS if lesson.candidates]
    assert 0.4 <= np.mean(invented) <= 0.6
    assert all(2 <= len(lesson.candidates) <= 10 for lesson in LESSONS)


def test_without_the_fitting_offer_the_answer_is_plain() -> None:
    question = next(q for q in TRAINING if len(q.mentions) == 2)
    assert compose_answer(question, {}, np.random.default_rng(0)) == question.answer
