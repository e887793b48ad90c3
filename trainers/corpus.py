"""The supervised corpus of the built-in world: what the `tiny` base model reads before any auction is held.

Two kinds of exercise. "Answer": a question with candidates is answered with some ads woven in, chosen by a noisy sense
of relevance and blind to their bids, as an instruction-following model without auction training would. "Read": short
questions on the offer list (which offer for a need bids the most, what does an offer bid), so that the base model can
read prices, as any pretrained language model can; they say nothing on what an answer should contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mechanism.markers import render_marker
from mechanism.types import Candidate, Context
from simulator.language import Woven, compose
from simulator.world import Query, World

AD_COUNT = (0.06, 0.24, 0.30, 0.25, 0.15)
"""How often an answer carries 0, 1, 2, 3, 4 ads."""
RELEVANT = 0.7
"""How often an ad is chosen by relevance (softmax over relevance / 0.2) and not at random."""
TEMPERATURE = 0.2
NO_PROFILE = 0.15
STYLE = {"native": 0.2, "plain": 0.5, "pushy": 0.3}


@dataclass(frozen=True, slots=True)
class Exercise:
    """A context and the answers (raw text with markers) to learn from it."""

    context: Context
    answers: tuple[str, ...]


def draw_context(world: World, query: Query, candidates: int, rng: np.random.Generator) -> Context:
    """A context as production may see it: short lists are a random part of a long one, and some users gave no consent
    to the use of their profile."""
    context = world.sample_context(query, rng, max(candidates, 20))
    kept = sorted(rng.permutation(len(context.candidates))[:candidates])
    profile = None if rng.random() < NO_PROFILE else context.profile
    return replace(context, candidates=tuple(context.candidates[i] for i in kept), profile=profile)


def answer_exercise(
    world: World,
    query: Query,
    candidates: int,
    answers: int,
    relevance: NDArray[np.float64] | None,
    rng: np.random.Generator,
) -> Exercise:
    """One context with several independent answers. `relevance` (of all world ads) may be precomputed, shape (ads,)."""
    context = draw_context(world, query, candidates, rng)
    category = next(c for c in world.categories if c.name == query.category)
    aspect = next((a for a in category.aspects if a in query.text), category.aspects[0])
    number = {ad.id: i for i, ad in enumerate(world.ads)}
    fit = np.array([0.0 if relevance is None else relevance[number[c.ad.id]] for c in context.candidates])
    written = []
    for _ in range(answers):
        woven = [
            Woven(c.ad, render_marker(c.ad), _style(rng)) for c in _choose(context.candidates, fit, rng)
        ]
        written.append(compose(category.name, aspect, category.advice, woven, rng))
    return Exercise(context, tuple(written))


def _style(rng: np.random.Generator) -> str:
    return str(rng.choice(list(STYLE), p=list(STYLE.values())))


def _choose(candidates: Sequence[Candidate], fit: NDArray[np.float64], rng: np.random.Generator) -> list[Candidate]:
    """Distinct candidates, drawn one by one by noisy relevance."""
    count = int(rng.choice(len(AD_COUNT), p=AD_COUNT))
    left = list(range(len(candidates)))
    chosen: list[Candidate] = []
    for _ in range(min(count, len(left))):
        weights = np.ones(len(left))
        if rng.random() < RELEVANT:
            weights = np.exp((fit[left] - fit[left].max()) / TEMPERATURE)
        pick = int(rng.choice(len(left), p=weights / weights.sum()))
        chosen.append(candidates[left.pop(pick)])
    return chosen


def reading_exercise(world: World, query: Query, candidates: int, rng: np.random.Generator) -> Exercise:
    """A question on the offer list itself, with its one right answer."""
    context = draw_context(world, query, candidates, rng)
    offers = context.candidates
    kind = int(rng.integers(4 if len(offers) > 1 else 3))
    if kind == 0:
        best = max(offers, key=lambda c: c.bid)
        question, answer = "Which offer bids the most?", render_marker(best.ad)
    elif kind == 1:
        one = offers[rng.integers(len(offers))]
        question, answer = f"What does {one.ad.title} bid?", str(one.bid // 10_000)
    elif kind == 2:
        one = offers[rng.integers(len(offers))]
        same = [c for c in offers if c.ad.category == one.ad.category]
        question = f"Which offer for {one.ad.category} bids the most?"
        answer = render_marker(max(same, key=lambda c: c.bid).ad)
    else:
        a, b = rng.choice(len(offers), size=2, replace=False)
        question = f"Which bids more, {offers[a].ad.title} or {offers[b].ad.title}?"
        answer = render_marker(max((offers[a], offers[b]), key=lambda c: c.bid).ad)
    asked = Context(context.id, question, offers, context.profile)
    return Exercise(asked, (f"{answer}.",))
