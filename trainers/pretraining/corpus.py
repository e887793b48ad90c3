"""The supervised corpus of the built-in world, from which the `tiny` base model learns before any auction.

Answers carry ads as an instruction-following model without auction training would choose them: by how well an offer
seems to fit, and sometimes by the bids that the prompt tells it to prefer. It judges by another encoder than the one
that clicks follow, and knows nothing of what ads do to each other. Exercises on reading bids are in `bid_exercises`;
changes to the contexts, so that titles are copied and not memorised, in `augmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mechanism.markers import render_marker
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Ad, Candidate, Context
from simulator.language import Woven, compose, style_of
from simulator.world import Query, World
from trainers.pretraining.augmentation import (
    FAMILIAR,
    Unfamiliar,
    with_descriptions,
    with_new_need,
    with_new_titles,
    with_turns,
)

AD_COUNT = (0.08, 0.42, 0.38, 0.12)
"""Probabilities of 0, 1, 2, 3 ads in an answer."""
TEMPERATURE = 0.15
"""An ad is chosen with probability softmax(fit / TEMPERATURE)."""
HEEDED = 0.15
"""Probability that a choice multiplies the fit by the bid (over 100 points)."""
NO_PROFILE = 0.15
PLAIN_SHARE = 0.25
"""Share of the ads whose sentence names no need."""
QUERY_RANGE, TASTE_RANGE, TASTE_WEIGHT = (0.15, 0.6), (0.35, 0.75), 0.6
"""Cosines of the frozen encoder that count as no and as full fit, to the question and to an interest; and what an
interest counts against the question."""

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
    fits: NDArray[np.float64] | None,
    rng: np.random.Generator,
    heeded: float = HEEDED,
    unfamiliar: Unfamiliar = FAMILIAR,
    only_fitting: bool = False,
) -> Exercise:
    """Build one context with several independent answers.

    `fits` is how well each ad of the world seems to fit, shape (ads,); None: all alike. `only_fitting` shows only ads
    of fit 1.
    """
    context = draw_context(world, query, candidates, rng)
    category = next(c for c in world.categories if c.name == query.category)
    aspect = next((a for a in category.aspects if a in query.text), category.aspects[0])
    number = {ad.id: i for i, ad in enumerate(world.ads)}
    fit = np.array([0.0 if fits is None else fits[number[c.ad.id]] for c in context.candidates])
    need = category.name
    if unfamiliar != FAMILIAR:
        context, need = with_new_need(with_new_titles(context, unfamiliar, rng), category, aspect, unfamiliar, rng)
    written = []
    for _ in range(answers):
        chosen = (
            _fitting(context.candidates, fit, rng) if only_fitting else _choose(context.candidates, fit, heeded, rng)
        )
        styles = [style_of((need, query.also), c.ad.category, rng.random() < PLAIN_SHARE) for c in chosen]
        woven = [
            Woven(c.ad, c.ad.category, render_marker(c.ad), style) for c, style in zip(chosen, styles, strict=True)
        ]
        written.append(compose(need, aspect, category.advice, woven, rng))
    if unfamiliar != FAMILIAR:
        context = with_descriptions(context, world.categories, unfamiliar, rng)
        context = with_turns(context, world.categories, category, need, aspect, unfamiliar, rng)
    return Exercise(context, tuple(written), learned="words")


def judged_fit(world: World, query: Query) -> NDArray[np.float64]:
    """Judge how well each ad of the world fits the question and the user's interests, shape (ads,), 0..1."""
    return context_fit(Context(query.id, query.text, (), query.profile, query.turns), world.ads)


def context_fit(context: Context, ads: Sequence[Ad]) -> NDArray[np.float64]:
    """Judge how well each ad fits a context's question and, with consent, the user's interests, shape (ads,), 0..1."""
    from inference.encoder import shared_encoder

    asked = " ".join([*(text for role, text in context.turns if role == "user"), context.query])
    interests = context.profile.interests if context.profile else ()
    vectors = shared_encoder().encode([asked, *interests, *(f"{ad.category}: {ad.text}" for ad in ads)])
    ads_AD, interests_ID = vectors[1 + len(interests) :], vectors[1 : 1 + len(interests)]
    by_query = _ramp(ads_AD @ vectors[0], QUERY_RANGE)
    if not interests:
        return by_query
    return 1.0 - (1.0 - by_query) * (1.0 - TASTE_WEIGHT * _ramp((ads_AD @ interests_ID.T).max(1), TASTE_RANGE))


def _ramp(cosines: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.float64]:
    low, high = limits
    return np.clip((cosines.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def _fitting(candidates: Sequence[Candidate], fit: NDArray[np.float64], rng: np.random.Generator) -> list[Candidate]:
    """Choose one or two of the candidates of fit 1, in any order."""
    right = [candidates[i] for i in rng.permutation(np.flatnonzero(fit == 1.0))]
    return right[: int(rng.integers(1, 3))]


def _choose(
    candidates: Sequence[Candidate], fit: NDArray[np.float64], heeded: float, rng: np.random.Generator
) -> list[Candidate]:
    """Draw distinct candidates one by one by their fit."""
    bids = np.array([c.bid for c in candidates]) / (100 * MICROS_PER_POINT)
    count = int(rng.choice(len(AD_COUNT), p=AD_COUNT))
    left = list(range(len(candidates)))
    chosen: list[Candidate] = []
    for _ in range(min(count, len(left))):
        worth = fit[left] * (bids[left] if rng.random() < heeded else 1.0)
        weights = np.exp((worth - worth.max()) / TEMPERATURE)
        pick = int(rng.choice(len(left), p=weights / weights.sum()))
        chosen.append(candidates[left.pop(pick)])
    return chosen
