"""Augmentation of the corpus with what production sends and the built-in world lacks.

Ads under invented titles, needs that no category names, ads with a description in place of a category, and questions
that follow others. A model that has only read the world's hundred ads memorises their titles; with invented ones it has
to copy the title of the relevant ad, whatever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mechanism.types import Candidate, Context
from simulator.brands import description, new_need, renamed
from simulator.language import FOLLOW_UPS, QUERY_TEMPLATES, Woven, compose, fill
from simulator.world import Category


@dataclass(frozen=True, slots=True)
class Unfamiliar:
    """Shares of the contexts that are changed; bids never are.

    `titles`: invented titles and ids (a share `whole` of those for all ads); `needs`: an invented need; `unfiled`: ads
    with a description in place of a category; `turns`: earlier turns.
    """

    titles: float = 0.5
    needs: float = 0.2
    unfiled: float = 0.25
    turns: float = 0.12
    whole: float = 0.6

    def __post_init__(self) -> None:
        assert all(0 <= share <= 1 for share in (self.titles, self.needs, self.unfiled, self.turns))


FAMILIAR = Unfamiliar(0.0, 0.0, 0.0, 0.0)
"""The built-in world unchanged."""


def with_new_titles(context: Context, shares: Unfamiliar, rng: np.random.Generator) -> Context:
    """Replace titles and ids of all ads or of some by invented ones, in a share of the contexts."""
    if rng.random() >= shares.titles:
        return context
    return renamed(context, rng, 1.0 if rng.random() < shares.whole else float(rng.random()))


def with_new_need(
    context: Context, category: Category, aspect: str, shares: Unfamiliar, rng: np.random.Generator
) -> tuple[Context, str]:
    """Replace one category by an invented need, in query and ads, in a share of the contexts.

    Returns the context, whose ads of that need have new titles, and the need's name.
    """
    if rng.random() >= shares.needs:
        return context, category.name
    need = new_need(rng)
    own = [c for c in context.candidates if c.ad.category == category.name]
    candidates = tuple(
        Candidate(replace(c.ad, category=need, text=description(rng, need, aspect)), c.bid) if c in own else c
        for c in context.candidates
    )
    turns = tuple((role, text.replace(category.name, need)) for role, text in context.turns)
    query = context.query.replace(category.name, need)
    asked = replace(context, query=query, turns=turns, candidates=candidates)
    return renamed(asked, rng, only=frozenset(c.ad.id for c in own)), need


def with_descriptions(
    context: Context, categories: Sequence[Category], shares: Unfamiliar, rng: np.random.Generator
) -> Context:
    """Remove the category of some ads, in a share of the contexts: only their description is left."""
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
    """Put an earlier turn before the query, in a share of the contexts that have none.

    It is about another need, or about the same one; then the query may name only what differs now. Links of earlier
    answers are plain titles.
    """
    if context.turns or rng.random() >= shares.turns:
        return context
    template = QUERY_TEMPLATES[rng.integers(len(QUERY_TEMPLATES))]
    if rng.random() < 0.5:
        past = categories[int(rng.integers(len(categories)))]
        named, query = past.name, context.query
    else:
        past, named = category, need
        query = fill(FOLLOW_UPS[rng.integers(len(FOLLOW_UPS))], need, aspect)
    before = past.aspects[rng.integers(len(past.aspects))]
    shown = [Woven(ad, ad.category, ad.title, "plain") for ad in past.ads[: int(rng.integers(3))]]
    answer = compose(named, before, past.advice, shown, rng)
    return replace(context, query=query, turns=(("user", fill(template, named, before)), ("assistant", answer)))
