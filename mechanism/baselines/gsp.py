"""Generalised second-price position auction before generation, then writing (pre-generation, arXiv 2404.08126).

Ads are ranked by bid * pCTR, predicted before any answer exists. The best take the slots at generalised second prices,
and the policy writes one answer from the winners alone. The ranking cannot take the answer into account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mechanism.baselines import AdPredictor, BaselineAnswer, Generator, generate, restricted
from mechanism.baselines.ranking import Won, check_weights, price_to_keep, rank
from mechanism.errors import InputError
from mechanism.types import AdId, Context, Micros


@dataclass(frozen=True, slots=True)
class GspSettings:
    """At most `slots` ads win, none with a bid under `reserve` micros; `shown_bid` as in `baselines.restricted`."""

    slots: int = 2
    reserve: Micros = 0
    shown_bid: Micros | None = None

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise InputError("slots", self.slots, "give at least one slot")


def allocate(bids: Mapping[AdId, Micros], pctr: Mapping[AdId, float], settings: GspSettings) -> tuple[Won, ...]:
    """Return the winners in slot order, with their prices per click.

    Winner i pays score_{i+1} / pctr_i, rounded up to micros, and at least the reserve; the ad ranked below need not
    hold a slot itself. A missing, negative or non-finite `pctr` is an InputError.
    """
    check_weights("pctr", bids, pctr)
    ranking = rank(bids, pctr, settings.reserve)
    below = [*ranking[1:], None]
    pairs = list(zip(ranking, below, strict=False))[: settings.slots]
    return tuple(Won(own.ad_id, price_to_keep(own, next_one, settings.reserve)) for own, next_one in pairs)


def answer(
    context: Context, generator: Generator, predict: AdPredictor, settings: GspSettings, seed: int
) -> BaselineAnswer:
    """Run the auction, then write one answer from the winners alone."""
    won = allocate(context.bids(), predict(context), settings)
    rewritten = restricted(context, (w.ad_id for w in won), settings.shown_bid)
    generation = generate(generator, rewritten, 1, seed)[0]
    return BaselineAnswer(generation, {w.ad_id: w.price for w in won}, generations=1)
