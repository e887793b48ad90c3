"""The everyday questions are enough, distinct, of real categories, and answered; their mentions fit the catalogue."""

from __future__ import annotations

import re
from collections import Counter

from simulator.everyday_world import EverydayWorld
from simulator.questions import TITLE, everyday_questions, split_questions
from simulator.world import World

QUESTIONS = everyday_questions()
CATEGORIES = {c.name: c for c in World(0, profiles=1).categories}
PUSHY = re.compile(r"\b(amazing|hurry|order now|buy now|don't miss|check out)\b|!", re.IGNORECASE)


def bare(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().casefold()


def test_there_are_enough_for_every_category_and_without_a_need() -> None:
    assert len(QUESTIONS) >= 1500
    counts = Counter(q.need for q in QUESTIONS)
    assert counts.keys() - {None} == CATEGORIES.keys()
    assert min(counts.values()) >= 20
    assert 0.3 <= counts[None] / len(QUESTIONS) <= 0.4


def test_a_tenth_follow_earlier_turns_of_user_and_assistant() -> None:
    following = [q for q in QUESTIONS if q.turns]
    assert 0.08 <= len(following) / len(QUESTIONS) <= 0.15
    for question in following:
        assert [role for role, _ in question.turns] == ["user", "assistant"] * (len(question.turns) // 2)
        assert all(text.strip() for _, text in question.turns)


def test_none_is_asked_twice() -> None:
    asked = Counter((bare(q.text), tuple(bare(text) for _, text in q.turns)) for q in QUESTIONS)
    assert [q for q, count in asked.items() if count > 1] == []
    assert all(1 <= len(q.text.split()) <= 45 for q in QUESTIONS)


def test_every_answer_is_short_and_names_no_ad() -> None:
    titles = [ad.title for c in CATEGORIES.values() for ad in c.ads]
    for question in QUESTIONS:
        assert 10 <= len(question.answer.split()) <= 75, question.answer
        assert not any(title in question.answer for title in titles), question.answer


def test_mentions_are_of_the_questions_category_and_push_nobody() -> None:
    mentions = [(q, m) for q in QUESTIONS for m in q.mentions]
    assert len(mentions) >= 900
    assert len({bare(m.sentence) for _, m in mentions}) == len(mentions)
    for question, mention in mentions:
        assert question.need is not None
        assert mention.ad in {ad.title for ad in CATEGORIES[question.need].ads}
        assert mention.sentence.count(TITLE) == 1
        assert mention.sentence.endswith((".", "?"))
        assert not PUSHY.search(mention.sentence), mention.sentence


def test_a_quarter_of_the_questions_with_a_need_are_best_answered_without_an_ad() -> None:
    needy = [q for q in QUESTIONS if q.need is not None]
    assert 0.15 <= sum(not q.mentions for q in needy) / len(needy) <= 0.4


def test_users_of_the_everyday_world_ask_held_out_questions_in_tests_only() -> None:
    world = EverydayWorld(0, profiles=300)
    training, held_out = split_questions()
    asked = {q.text for q in held_out}
    assert {q.text for q in world.test_queries} <= asked
    assert {q.text for q in world.train_queries} <= {q.text for q in training}
    assert 0.25 <= sum(not q.category for q in world.train_queries) / len(world.train_queries) <= 0.45
