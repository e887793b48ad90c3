"""The everyday questions are enough, distinct, of real categories, and a third of them without a need."""

from __future__ import annotations

import re
from collections import Counter
from string import Formatter

from simulator.questions import everyday_questions, mentions
from simulator.world import World

QUESTIONS = everyday_questions()


def bare(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().casefold()


def test_there_are_enough_for_every_category_and_without_a_need() -> None:
    assert len(QUESTIONS) >= 1500
    categories = {c.name for c in World(0).categories}
    counts = Counter(q.need for q in QUESTIONS)
    assert counts.keys() - {None} == categories
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


def test_mentions_name_the_offer_once_and_push_nobody() -> None:
    sentences = mentions()
    assert len(sentences) >= 150
    assert len({bare(s) for s in sentences}) == len(sentences)
    for sentence in sentences:
        fields = [name for _, name, _, _ in Formatter().parse(sentence) if name is not None]
        assert fields.count("title") == 1
        assert set(fields) <= {"title", "offer", "need"}
        assert sentence.endswith(".")
        assert not re.search(r"\b(best|amazing|hurry|order now|buy now|don't miss)\b", sentence, re.IGNORECASE)
    assert sum("{offer}" in s for s in sentences) >= 100
