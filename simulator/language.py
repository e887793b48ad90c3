"""The language of the built-in world: templates of queries, answers and sentences that carry ads.

Used for the queries of `simulator.world`, for the supervised corpus of the `tiny` base model
(`trainers.pretraining.corpus`), and for the best answer that the language can express (`simulator.optimum`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mechanism.types import Ad

QUERY_TEMPLATES = (
    "Which {need} are good for {aspect}?",
    "I am looking for {need} for {aspect}.",
    "How do I choose {need} for {aspect}?",
    "What should I know about {need} for {aspect}?",
    "Can you recommend {need}, mainly for {aspect}?",
    "My old {need} were bad for {aspect}, what now?",
    "Any tips on {need}? It is about {aspect}.",
    "Help me with {need} for {aspect}, please.",
)
TWO_NEEDS = (
    "I need {need} for {aspect}, and {other} as well.",
    "Which {need} are good for {aspect}, and which {other}?",
    "Any tips on {need} for {aspect}, and on {other}?",
    "I am looking for {other} and for {need} for {aspect}.",
)
FOLLOW_UPS = ("And for {aspect}?", "What about {aspect}?", "It is for {aspect}.", "And which {need} for {aspect}?")
LEADS = (
    "For {aspect}, {need} differ more than most people think.",
    "Choosing {need} for {aspect} comes down to a few points.",
    "Good {need} for {aspect} are easy to find with some care.",
    "With {need}, {aspect} should guide your choice.",
    "There is no single answer on {need} for {aspect}.",
)
FITTING = (
    "If {aspect} is what you have in mind, the {need} of {ad} are a solid choice.",
    "Among {need} for {aspect}, {ad} stands out.",
    "One of the {need} that suit {aspect} is {ad}.",
    "People who ask about {need} for {aspect} often end up with {ad}.",
)
NAMING = (
    "As far as {need} go, {ad} has a good name.",
    "When it comes to {need}, {ad} is worth a look.",
    "And for {need} there is {ad}.",
    "If you also think of {need}, try {ad}.",
)
PLAIN = (
    "You could also take a look at {ad}.",
    "Another name that comes up is {ad}.",
    "Some people like {ad} as well.",
    "There is also {ad} to think about.",
)
PUSHY = (
    "Buy {ad} now, the best deal ever!",
    "Do not miss {ad}, order today!",
    "Hurry, {ad} is on sale right now!",
    "You must get {ad} today, number one!",
)
STYLES = {"fitting": FITTING, "naming": NAMING, "plain": PLAIN, "pushy": PUSHY}
"""Sentences that carry an ad: on the question's aspect and the ad's need, on the ad's need, on neither, and pushy ones,
which no model of ours learns (they measure the click model)."""


def fill(template: str, need: str, aspect: str, ad: str = "", other: str = "") -> str:
    """Fill a template; the first letter becomes a capital."""
    text = template.format(need=need, aspect=aspect, ad=ad, other=other)
    return text[0].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Woven:
    """An ad in an answer: the need that it serves, its marker in the text and the style of its sentence."""

    ad: Ad
    need: str
    marker: str
    style: str


def compose(need: str, aspect: str, advice: Sequence[str], woven: Sequence[Woven], rng: np.random.Generator) -> str:
    """Compose one answer: a lead, one or two pieces of advice, and the ads' sentences in their order between."""
    lead = fill(LEADS[rng.integers(len(LEADS))], need, aspect)
    count = 1 if woven else 2
    body = [advice[i] for i in rng.permutation(len(advice))[:count]]
    places = sorted(int(rng.integers(len(body) + 1)) for _ in woven)
    for shift, (item, place) in enumerate(zip(woven, places, strict=True)):
        templates = STYLES[item.style]
        sentence = fill(templates[rng.integers(len(templates))], item.need, aspect, item.marker)
        body.insert(place + shift, sentence)
    return " ".join([lead, *body])


def style_of(asked: Iterable[str], need: str, plain: bool) -> str:
    """Return the style in which a sober answer mentions an ad: on the aspect only if its need was asked for."""
    if plain:
        return "plain"
    return "fitting" if need in tuple(asked) else "naming"
