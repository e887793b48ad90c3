"""Segment auction over retrieved ads (arXiv 2406.09459): one randomised auction for each segment of the answer.

An ad wins a segment with probability q_i * b_i / sum_j q_j * b_j, q being its retrieval relevance: the largest of
q_i * b_i * exp(g_i) under independent Gumbel noise g. With the noise fixed it is a second-price auction. The policy
then writes one answer from the winners of all segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mechanism.baselines import AdPredictor, Generator, RivalAnswer, only, restricted
from mechanism.baselines.ranking import Won, check_weights, price_to_keep, rank
from mechanism.errors import InputError
from mechanism.types import AdId, Context, Micros


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """`segments` auctions in turn, no ad winning twice, none that bids under `reserve` micros; `shown_bid`: see
    `restricted`."""

    segments: int = 2
    reserve: Micros = 0
    shown_bid: Micros | None = None

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise InputError("segments", self.segments, "give at least one segment")


def win_probabilities(
    bids: Mapping[AdId, Micros], relevance: Mapping[AdId, float], reserve: Micros = 0
) -> dict[AdId, float]:
    """q_i * b_i / sum_j q_j * b_j of the first segment, for every bidder; all zero when nobody competes."""
    check_weights("relevance", bids, relevance)
    scores = {entry.ad_id: entry.score for entry in rank(bids, relevance, reserve)}
    total = sum(scores.values())
    return {ad_id: float(scores[ad_id] / total) if ad_id in scores else 0.0 for ad_id in bids}


def allocate(
    bids: Mapping[AdId, Micros], relevance: Mapping[AdId, float], settings: SegmentSettings, seed: int
) -> tuple[Won, ...]:
    """Winners by segment, fewer than the segments if the competitors run out.

    A winner pays per click the smallest bid that wins its segment under the same noise and the same earlier winners,
    rounded up to micros, at least the reserve. Noise is drawn for the ads in order of id, so neither another order nor
    another bid changes it. Raises InputError for a missing, negative or non-finite relevance.
    """
    check_weights("relevance", bids, relevance)
    rng = np.random.default_rng([seed, 1])  # a stream apart from that of the text written under the same seed
    left = {ad_id: bids[ad_id] for ad_id in sorted(bids)}
    order = list(left)
    won: list[Won] = []
    for _ in range(settings.segments):
        # Drawn for all ads, winners included: the noise of a segment does not depend on who won before.
        noise = dict(zip(order, rng.gumbel(size=len(order)), strict=True))
        perturbed = {ad_id: relevance[ad_id] * float(np.exp(noise[ad_id])) for ad_id in left}
        ranking = rank(left, perturbed, settings.reserve)
        if not ranking:
            break
        winner, runner_up = ranking[0], ranking[1] if len(ranking) > 1 else None
        won.append(Won(winner.ad_id, price_to_keep(winner, runner_up, settings.reserve)))
        del left[winner.ad_id]
    return tuple(won)


def answer(
    context: Context, generator: Generator, retrieve: AdPredictor, settings: SegmentSettings, seed: int
) -> RivalAnswer:
    """Auctions, then one answer written from the winners alone."""
    won = allocate(context.bids(), retrieve(context), settings, seed)
    rewritten = restricted(context, (w.ad_id for w in won), settings.shown_bid)
    generation = only(generator.generate(rewritten, 1, seed), 1)[0]
    return RivalAnswer(generation, {w.ad_id: w.price for w in won}, generations=1)
