"""Sweeps of bids over a policy: the expected clicks of an ad as its bid rises and everything else stays.

Clicks are the simulator's expectations. What is left of the noise of sampling answers is reduced twice: by the
propensities at the markers, and by equal seeds at all levels of a sweep (common random numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mechanism.prompt import MICROS_PER_POINT
from mechanism.statistics import Floats
from mechanism.types import Ad, AdId, Answer, Context, Generation

LEVELS = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
"""Bid levels of a sweep, in points."""
FINE_LEVELS = (1, *range(5, 101, 5))
"""Bid levels of a sweep for steps, in points."""


class AnsweringPolicy(Protocol):
    """The part of a policy that sweeps use."""

    def generate(self, contexts: Sequence[Context], samples: int, seed: int) -> list[list[Generation]]:
        """Return `samples` answers to each context; equal arguments give equal answers."""
        ...


class ClickTruth(Protocol):
    """The part of the true click model that sweeps use."""

    def probabilities(self, context: Context, answer: Answer) -> dict[AdId, float]:
        """Return ctr_i of every distinct shown ad."""
        ...

    def relevance(self, context: Context, ads: list[Ad]) -> Floats:
        """Return the relevance of each ad to the context, 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class Sweep:
    """Expected clicks of the swept ad at each of `levels` (points), shape (levels, contexts, answers)."""

    levels: tuple[int, ...]
    clicks_LCA: Floats


def swept_ads(contexts: Sequence[Context], truth: ClickTruth, seed: int) -> list[AdId]:
    """Choose for each context one of its five most relevant candidates, at random: ads that a bid can decide on."""
    rng = np.random.default_rng([seed, 21])
    chosen = []
    for context in contexts:
        top = _ranked(context, truth, [1.0] * len(context.candidates))[:5]
        chosen.append(top[rng.integers(len(top))])
    return chosen


def contested_ads(contexts: Sequence[Context], truth: ClickTruth, ranks: int = 2) -> list[tuple[AdId, ...]]:
    """Return the ads of each context that rank first by true relevance times bid: those that compete for the answer."""
    return [tuple(_ranked(c, truth, [float(own.bid) for own in c.candidates])[:ranks]) for c in contexts]


def _ranked(context: Context, truth: ClickTruth, weights: Sequence[float]) -> list[AdId]:
    scores = truth.relevance(context, [c.ad for c in context.candidates]) * np.asarray(weights)
    return [context.candidates[int(i)].ad.id for i in np.argsort(-scores, kind="stable")]


def sweep(
    policy: AnsweringPolicy,
    contexts: Sequence[Context],
    ads: Sequence[AdId],
    truth: ClickTruth,
    answers: int,
    seed: int,
    levels: tuple[int, ...] = LEVELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sweep:
    """Sweep the bid of each context's ad over `levels`, the other bids fixed; `progress` takes levels done and all."""
    shape = (len(levels), len(contexts), answers)
    ctr, shown, exposure = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for k, level in enumerate(levels):
        versions = [c.with_bids({ad: level * MICROS_PER_POINT}) for c, ad in zip(contexts, ads, strict=True)]
        for q, own in enumerate(policy.generate(versions, answers, seed)):
            for m, generation in enumerate(own):
                clicked = truth.probabilities(versions[q], generation.answer)
                ctr[k, q, m] = clicked.get(ads[q], 0.0)
                shown[k, q, m] = ads[q] in clicked
                exposure[k, q, m] = exposure_of(ads[q], generation)
        progress(k + 1, len(levels))
    return Sweep(levels, expected_clicks(ctr, shown, exposure))


def exposure_of(ad: AdId, generation: Generation) -> float:
    """Return the sum of the probabilities of naming `ad` at the markers of an answer, up to the one that names it.

    Its expectation over answers is the probability that the ad is shown, and it varies less than whether it is.
    Where a propensity is not exact, or an insertion has none, it is whether the ad is shown.
    """
    choices = generation.choices
    if len(choices) < len(generation.answer.insertions) or not all(choice.exact for choice in choices):
        return float(ad in generation.answer.shown())
    total = 0.0
    for choice in choices:
        total += choice.probabilities.get(ad, 0.0)
        if choice.chosen == ad:
            break
    return total


def expected_clicks(ctr_LCA: Floats, shown_LCA: Floats, exposure_LCA: Floats) -> Floats:
    """Return clicks per answer with the chance of the markers taken out, shape (levels, contexts, answers).

    The estimate is ctr - rate * (shown - exposure), where the rate is the context's mean ctr when shown, over all
    levels. The difference has mean zero, so the mean stays itctr (Definition 3.1 of arXiv 2512.10551); single
    estimates may lie outside of 0..1.
    """
    times = shown_LCA.sum(axis=(0, 2), keepdims=True)
    rate = np.divide(ctr_LCA.sum(axis=(0, 2), keepdims=True), times, out=np.zeros_like(times), where=times > 0)
    return np.asarray(ctr_LCA - rate * (shown_LCA - exposure_LCA))
