"""Everyday questions as exercises for a real language model: who is offered what, and which answer it should write.

Five questions of one domain and one without a need share a list of offers, so that one encoded prompt teaches six
answers, and so that the offers of the other questions are near misses. Half of the lists carry invented titles: the
model must read the list, not remember it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mechanism.markers import render_marker
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Candidate, Context
from simulator.brands import renamed
from simulator.questions import TITLE, Question
from simulator.world import Category, builtin_categories

WITH_NEED, WITHOUT = 5, 1
"""Questions of a group with a need and without one."""
OFFERED = 0.85
"""Probability that a question's own category is among the offers; without it the plain answer is right."""
LEAST_OFFERS, MOST_OFFERS = 2, 8
INVENTED = 0.5
TWO_ADS = 0.35
"""Probability that both ads are mentioned where both fit."""
BETTER_BID = 0.75
"""Probability that the higher bid wins where one of two fitting ads is mentioned."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One list of offers and, behind it, the questions with the raw answers to learn."""

    candidates: tuple[Candidate, ...]
    questions: tuple[tuple[Question, str], ...]

    def context(self, number: int) -> Context:
        """Return the context of a question."""
        question, _ = self.questions[number]
        return Context(f"everyday-{number}", question.text, self.candidates, turns=question.turns)


def lessons(questions: Sequence[Question], rng: np.random.Generator) -> Iterator[Lesson]:
    """Yield every question with a need once, in groups of one domain, each with a question that has none."""
    categories = {c.name: c for c in builtin_categories()}
    plain = [q for q in questions if q.need is None]
    rng.shuffle(plain)
    groups: list[list[Question]] = []
    for domain in dict.fromkeys(c.domain for c in categories.values()):
        own = [q for q in questions if q.need is not None and categories[q.need].domain == domain]
        rng.shuffle(own)
        groups += [own[i : i + WITH_NEED] for i in range(0, len(own), WITH_NEED)]
    rng.shuffle(groups)
    for group in groups:
        yield lesson([*group, *(plain.pop() for _ in range(min(WITHOUT, len(plain))))], categories, rng)


def lesson(questions: Sequence[Question], categories: dict[str, Category], rng: np.random.Generator) -> Lesson:
    """Draw the offers for a group of questions and compose the answers that fit them."""
    needs = list(dict.fromkeys(q.need for q in questions if q.need is not None))
    chosen = [ad for need in needs if rng.random() < OFFERED for ad in categories[need].ads][:MOST_OFFERS]
    domains = {categories[need].domain for need in needs}
    near = [ad for c in categories.values() if c.domain in domains for ad in c.ads if c.name not in needs]
    far = [ad for c in categories.values() if c.domain not in domains for ad in c.ads]
    rng.shuffle(near)
    rng.shuffle(far)
    wanted = int(rng.integers(LEAST_OFFERS, MOST_OFFERS + 1))
    chosen += [*near[:3], *far][: max(0, wanted - len(chosen))]
    rng.shuffle(chosen)
    candidates = tuple(Candidate(ad, int(rng.integers(1, 101)) * MICROS_PER_POINT) for ad in chosen)
    shown = Context("lesson", "", candidates)
    if rng.random() < INVENTED:
        shown = renamed(shown, rng, 1.0)
    titles = {known.title: new for known, new in zip(chosen, shown.candidates, strict=True)}
    rng.shuffle(order := list(questions))
    return Lesson(shown.candidates, tuple((q, compose_answer(q, titles, rng)) for q in order))


def compose_answer(question: Question, offered: dict[str, Candidate], rng: np.random.Generator) -> str:
    """Return the raw answer: plain where none of the offers fits, else with one mention or two.

    `offered` holds the candidates by the titles that the question's mentions know.
    """
    fitting = [(offered[m.ad], m.sentence) for m in question.mentions if m.ad in offered]
    if len(fitting) > 1 and rng.random() >= TWO_ADS:
        fitting.sort(key=lambda pair: -pair[0].bid)
        fitting = [fitting[0] if rng.random() < BETTER_BID else fitting[1]]
    said = [sentence.replace(TITLE, render_marker(candidate.ad)) for candidate, sentence in fitting]
    return " ".join([question.answer, *said])
