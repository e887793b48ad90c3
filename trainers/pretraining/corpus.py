"""The supervised corpus of the built-in world, from which the `tiny` base model learns before any auction.

Answers carry ads as an instruction-following model without auction training would choose them: by noisy relevance, and
sometimes by the bids that the prompt tells it to prefer. Exercises on reading bids are in `bid_exercises`; changes to
the contexts, so that titles are copied and not memorised, in `augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mechanism.markers import render_marker
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Candidate, Context
from simulator.language import Woven, compose
from simulator.world import Query, World
from trainers.pretraining.augmentation import (
    FAMILIAR,
    Unfamiliar,
    with_descriptions,
    with_new_need,
    with_new_titles,
    with_turns,
)

AD_COUNT = (0.10, 0.35, 0.30, 0.17, 0.08)
"""Probabilities of 0, 1, 2, 3, 4 ads in an answer."""
RELEVANT = 0.7
"""Probability that an ad is chosen by relevance (softmax over relevance / 0.2) and not at random."""
TEMPERATURE = 0.2
HEEDED = 0.15
"""Probability that a choice by relevance multiplies it by the bid (over 100 points)."""
NO_PROFILE = 0.15
STYLE = {"native": 0.2, "plain": 0.5, "pushy": 0.3}

Learned = Literal["all", "words", "titles", "first title"]
"""Which tokens of an answer are learned."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """A context and the answers (raw text with markers) to learn from it.

    `given` are openings of the answers that are read but not learned, one for every answer or none. `learned`: "all"
    tokens; "words": all but the markers' ids, which the prompt does not show and the decoder's trie writes anyway;
    "titles": the markers' titles alone, because the choice of an ad is a small part of an answer's tokens and so of the
    mean loss; "first title": the first title and what leads to it, where the answer ends.
    """

    context: Context
    answers: tuple[str, ...]
    given: tuple[str, ...] = ()
    learned: Learned = "all"


def draw_context(world: World, query: Query, candidates: int, rng: np.random.Generator) -> Context:
    """Draw a context: `candidates` of at least 20 sampled ads, and for a share of the users no profile."""
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
    heeded: float = HEEDED,
    unfamiliar: Unfamiliar = FAMILIAR,
    only_fitting: bool = False,
) -> Exercise:
    """Build one context with several independent answers.

    `relevance` of all ads of the world, shape (ads,), may be precomputed. `only_fitting` shows only ads of relevance 1.
    """
    context = draw_context(world, query, candidates, rng)
    category = next(c for c in world.categories if c.name == query.category)
    aspect = next((a for a in category.aspects if a in query.text), category.aspects[0])
    number = {ad.id: i for i, ad in enumerate(world.ads)}
    fit = np.array([0.0 if relevance is None else relevance[number[c.ad.id]] for c in context.candidates])
    need = category.name
    if unfamiliar != FAMILIAR:
        context, need = with_new_need(with_new_titles(context, unfamiliar, rng), category, aspect, unfamiliar, rng)
    written = []
    for _ in range(answers):
        chosen = (
            _fitting(context.candidates, fit, rng) if only_fitting else _choose(context.candidates, fit, heeded, rng)
        )
        woven = [Woven(c.ad, render_marker(c.ad), _style(rng)) for c in chosen]
        written.append(compose(need, aspect, category.advice, woven, rng))
    if unfamiliar != FAMILIAR:
        context = with_descriptions(context, world.categories, unfamiliar, rng)
        context = with_turns(context, world.categories, category, need, aspect, unfamiliar, rng)
    return Exercise(context, tuple(written), learned="words")


def _style(rng: np.random.Generator) -> str:
    return str(rng.choice(list(STYLE), p=list(STYLE.values())))


def _fitting(candidates: Sequence[Candidate], fit: NDArray[np.float64], rng: np.random.Generator) -> list[Candidate]:
    """Choose one or two of the candidates of relevance 1, in any order."""
    right = [candidates[i] for i in rng.permutation(np.flatnonzero(fit == 1.0))]
    return right[: int(rng.integers(1, 3))]


def _choose(
    candidates: Sequence[Candidate], fit: NDArray[np.float64], heeded: float, rng: np.random.Generator
) -> list[Candidate]:
    """Draw distinct candidates one by one by noisy relevance."""
    bids = np.array([c.bid for c in candidates]) / (100 * MICROS_PER_POINT)
    count = int(rng.choice(len(AD_COUNT), p=AD_COUNT))
    left = list(range(len(candidates)))
    chosen: list[Candidate] = []
    for _ in range(min(count, len(left))):
        weights = np.ones(len(left))
        if rng.random() < RELEVANT:
            worth = fit[left] * (bids[left] if rng.random() < heeded else 1.0)
            weights = np.exp((worth - worth.max()) / TEMPERATURE)
        pick = int(rng.choice(len(left), p=weights / weights.sum()))
        chosen.append(candidates[left.pop(pick)])
    return chosen
