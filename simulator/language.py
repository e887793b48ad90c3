"""The language of the built-in world: templates of queries, answers and sentences that carry ads.

Used for the queries of `simulator.world` and for the supervised corpus of the `tiny` base model
(`trainers.pretraining.corpus`).
"""

from __future__ import annotations

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
LEADS = (
    "For {aspect}, {need} differ more than most people think.",
    "Choosing {need} for {aspect} comes down to a few points.",
    "Good {need} for {aspect} are easy to find with some care.",
    "With {need}, {aspect} should guide your choice.",
    "There is no single answer on {need} for {aspect}.",
)
NATIVE = (
    "For {aspect}, many people are happy with {ad}.",
    "If {aspect} is what you have in mind, {ad} is a solid choice of {need}.",
    "Among {need} for {aspect}, {ad} stands out.",
    "One of the {need} that suit {aspect} is {ad}.",
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
STYLES = {"native": NATIVE, "plain": PLAIN, "pushy": PUSHY}


def fill(template: str, need: str, aspect: str, ad: str = "") -> str:
    """Fill a template; the first letter becomes a capital."""
    text = template.format(need=need, aspect=aspect, ad=ad)
    return text[0].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Woven:
    """An ad in an answer: its marker in the text and the style of the sentence that carries it."""

    ad: Ad
    marker: str
    style: str


def compose(need: str, aspect: str, advice: tuple[str, ...], woven: list[Woven], rng: np.random.Generator) -> str:
    """Compose one answer: a lead, one or two pieces of advice, and the ads' sentences at random places between."""
    lead = fill(LEADS[rng.integers(len(LEADS))], need, aspect)
    count = 1 if woven else 2
    body = [advice[i] for i in rng.permutation(len(advice))[:count]]
    for item in woven:
        templates = STYLES[item.style]
        sentence = fill(templates[rng.integers(len(templates))], need, aspect, item.marker)
        body.insert(int(rng.integers(len(body) + 1)), sentence)
    return " ".join([lead, *body])
