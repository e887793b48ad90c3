"""Rival mechanisms of the field in the same harness: what they need from outside, and what they hand back.

A rival chooses ads or answers and sets prices; writing answers, predicting clicks and retrieving ads is the caller's.
So that no table is won against a strawman, every rival gets the same policy and the same pCTR model as the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from mechanism.errors import InputError
from mechanism.types import AdId, Answer, Context, Generation, Micros


class Generator(Protocol):
    """Writes answers: a policy seen through one method. The candidates of `context` may be a subset, or none."""

    def generate(self, context: Context, samples: int, seed: int) -> list[Generation]:
        """`samples` independent answers to `context`, the same for the same seed."""
        ...


class AnswerPredictor(Protocol):
    """pCTR after generation: the click probability of every ad shown in a finished answer."""

    def __call__(self, context: Context, answer: Answer) -> Mapping[AdId, float]: ...


class AdPredictor(Protocol):
    """A score of every candidate before generation: pCTR for GSP, relevance q_i >= 0 for the segment auction."""

    def __call__(self, context: Context) -> Mapping[AdId, float]: ...


@dataclass(frozen=True, slots=True)
class RivalAnswer:
    """The answer shown, the price of one click for each ad that won a place (micros), and the answers generated."""

    generation: Generation
    click_prices: Mapping[AdId, Micros]
    generations: int


def restricted(context: Context, winners: Iterable[AdId], shown_bid: Micros | None = None) -> Context:
    """`context` with the winners alone, in their order, for the rewriting step. `shown_bid`, if given, replaces their
    bids in the prompt: the auction is over, and a policy that heeds bids should not drop a winner for bidding little.
    Raises InputError for a winner that is no candidate."""
    by_id = {c.ad.id: c for c in context.candidates}
    chosen = []
    for ad_id in winners:
        if ad_id not in by_id:
            raise InputError("winners", ad_id, "name candidates of this context only")
        won = by_id[ad_id]
        chosen.append(won if shown_bid is None else replace(won, bid=shown_bid))
    return replace(context, candidates=tuple(chosen))


def only(generations: list[Generation], samples: int) -> list[Generation]:
    """The generations of one call. Raises InputError when they are not as many as were asked for."""
    if len(generations) != samples:
        raise InputError("generator", len(generations), f"return exactly the {samples} answers asked for")
    return generations
