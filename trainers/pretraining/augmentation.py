"""Contexts of the corpus as production sends them and the built-in world does not: offers under titles that nobody has
seen, needs that no category names, offers that their advertisers only describe, and questions that follow others.

A model that has only read the world's own hundred ads recites their titles by heart. Here the title has to be copied
from the offer that fits, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mechanism.types import Candidate, Context
from simulator.brands import description, new_need, renamed
from simulator.language import QUERY_TEMPLATES, Woven, compose, fill
from simulator.world import Category

FOLLOW_UPS = ("And for {aspect}?", "What about {aspect}?", "It is for {aspect}.", "And which {need} for {aspect}?")


@dataclass(frozen=True, slots=True)
class Unfamiliar:
    """Shares of the contexts: with invented titles and ids (`whole` of them for all offers), with an invented need,
    with offers that have no category but a description, and with earlier turns. No share touches a bid."""

    titles: float = 0.5
    needs: float = 0.2
    unfiled: float = 0.25
    turns: float = 0.12
    whole: float = 0.6

    def __post_init__(self) -> None:
        assert all(0 <= share <= 1 for share in (self.titles, self.needs, self.unfiled, self.turns))


FAMILIAR = Unfamiliar(0.0, 0.0, 0.0, 0.0)
"""The built-in world as it is."""


def with_new_titles(context: Context, shares: Unfamiliar, rng: np.random.Generator) -> Context:
    """In a share of the contexts, invented titles and ids for all offers or for some."""
    if rng.random() >= shares.titles:
        return context
    return renamed(context, rng, 1.0 if rng.random() < shares.whole else float(rng.random()))


def with_new_need(
    context: Context, category: Category, aspect: str, shares: Unfamiliar, rng: np.random.Generator
) -> tuple[Context, str]:
    """In a share of the contexts, one category becomes a need that nobody has heard of, in the question and in the
    offers, which get new titles with it; and the need's name."""
    if rng.random() >= shares.needs:
        return context, category.name
    need = new_need(rng)
    own = [c for c in context.candidates if c.ad.category == category.name]
    candidates = tuple(
        Candidate(replace(c.ad, category=need, text=description(rng, need, aspect)), c.bid) if c in own else c
        for c in context.candidates
    )
    asked = replace(context, query=context.query.replace(category.name, need), candidates=candidates)
    return renamed(asked, rng, only=frozenset(c.ad.id for c in own)), need


def with_descriptions(
    context: Context, categories: Sequence[Category], shares: Unfamiliar, rng: np.random.Generator
) -> Context:
    """In a share of the contexts, some offers have no category: what they say of themselves has to do."""
    if rng.random() >= shares.unfiled:
        return context
    aspects = {c.name: c.aspects for c in categories}
    share = float(rng.random())
    candidates = []
    for candidate in context.candidates:
        ad = candidate.ad
        if rng.random() < share:
            own = aspects.get(ad.category, ("every day", "beginners", "small flats"))
            written = description(rng, ad.category, own[rng.integers(len(own))])
            ad = replace(ad, category="", text=written if rng.random() < 0.6 else ad.text)
        candidates.append(Candidate(ad, candidate.bid))
    return replace(context, candidates=tuple(candidates))


def with_turns(
    context: Context,
    categories: Sequence[Category],
    category: Category,
    need: str,
    aspect: str,
    shares: Unfamiliar,
    rng: np.random.Generator,
) -> Context:
    """In a share of the contexts the question follows an earlier one: on something else, or on the same need, and then
    it may say no more than what is different now. Links of earlier answers are plain titles by then."""
    if rng.random() >= shares.turns:
        return context
    template = QUERY_TEMPLATES[rng.integers(len(QUERY_TEMPLATES))]
    if rng.random() < 0.5:
        past = categories[int(rng.integers(len(categories)))]
        named, query = past.name, context.query
    else:
        past, named = category, need
        query = fill(FOLLOW_UPS[rng.integers(len(FOLLOW_UPS))], need, aspect)
    before = past.aspects[rng.integers(len(past.aspects))]
    shown = [Woven(ad, ad.title, "plain") for ad in past.ads[: int(rng.integers(3))]]
    told = compose(named, before, past.advice, shown, rng)
    return replace(context, query=query, turns=(("user", fill(template, named, before)), ("assistant", told)))
