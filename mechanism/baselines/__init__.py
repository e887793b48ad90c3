"""Baseline mechanisms from other papers: the interfaces they share.

A baseline chooses ads or answers and sets prices. The caller supplies the policy that writes answers, the click
predictor and the relevance scores, the same for every mechanism, so that a comparison measures the mechanism alone.

* `simple`: the most relevant ads whatever they bid, or the highest bids whatever they offer;
* `gsp`: a position auction before generation, then one answer written from the winners (arXiv 2404.08126);
* `segment`: one randomised auction for each segment of the answer, over retrieved ads (arXiv 2406.09459);
* `lera`: retrieved ads, scored by the policy's own probability of naming them (arXiv 2605.16474);
* `token`: every token drawn from the mixture of what each advertiser would write (arXiv 2310.10826);
* `mosaic`: many sampled answers, one of them drawn by the optimal policy's density (arXiv 2405.05905).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from mechanism.errors import InputError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import AdId, Answer, Context, Generation, Micros


class Generator(Protocol):
    """A policy, as baselines call it. The candidates of `context` may be a subset of an auction's, or none."""

    def generate(self, context: Context, samples: int, seed: int) -> list[Generation]:
        """Return `samples` independent answers to `context`; the same seed gives the same answers."""
        ...


SHOWN_BID: Final[Micros] = 100 * MICROS_PER_POINT
"""Winners of an auction held before generation are shown to the policy at the highest bid."""


class AnswerPredictor(Protocol):
    """A click predictor after generation: pCTR of every ad that a finished answer shows."""

    def __call__(self, context: Context, answer: Answer) -> Mapping[AdId, float]: ...


@dataclass(frozen=True, slots=True)
class BaselineAnswer:
    """A baseline's answer, each winner's price per click (micros), and the number of generated answers."""

    generation: Generation
    click_prices: Mapping[AdId, Micros]
    generations: int


def restricted(context: Context, winners: Iterable[AdId], shown_bid: Micros | None = None) -> Context:
    """Return `context` with the winners as its only candidates, in their order, for the writing step.

    `shown_bid` (micros), if given, replaces their bids in the prompt: the auction is over, and a policy that reads bids
    must not drop a winner because its bid is low.

    Raises:
        InputError: if a winner is not a candidate of `context`.
    """
    by_id = {c.ad.id: c for c in context.candidates}
    chosen = []
    for ad_id in winners:
        if ad_id not in by_id:
            raise InputError("winners", ad_id, "name candidates of this context only")
        won = by_id[ad_id]
        chosen.append(won if shown_bid is None else replace(won, bid=shown_bid))
    return replace(context, candidates=tuple(chosen))


def generate(generator: Generator, context: Context, samples: int, seed: int) -> list[Generation]:
    """Return `samples` answers to `context` after checking their number.

    Raises:
        InputError: if the generator returns more or fewer answers.
    """
    generations = generator.generate(context, samples, seed)
    if len(generations) != samples:
        raise InputError("generator", len(generations), f"return exactly {samples} answers")
    return generations
