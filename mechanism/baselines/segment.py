"""Segment auction over retrieved ads (arXiv 2406.09459): one randomised auction for each segment of the answer.

An ad with retrieval relevance q_i wins a segment with probability q_i * b_i / sum_j q_j * b_j: its perturbed score
q_i * b_i * exp(g_i), with independent Gumbel noise g_i, is the largest. For fixed noise this is a second-price auction.
The policy then writes the segments in turn, each with its winner, as the continuation of those before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mechanism.baselines.ranking import Won, check_weights, price_to_keep, rank
from mechanism.errors import InputError
from mechanism.types import AdId, Micros


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """One auction for each of `segments`, in turn; no ad wins twice. Ads that bid under `reserve` micros lose."""

    segments: int = 2
    reserve: Micros = 0

    def __post_init__(self) -> None:
        if self.segments < 1:
            raise InputError("segments", self.segments, "give at least one segment")
        if self.reserve < 0:
            raise InputError("reserve", self.reserve, "give a whole number of micros >= 0")


def allocate(
    bids: Mapping[AdId, Micros], relevance: Mapping[AdId, float], settings: SegmentSettings, seed: int
) -> tuple[Won, ...]:
    """Return the winners in segment order, with their prices per click; fewer if no competitor is left.

    A winner pays the smallest bid that wins its segment under the same noise and the same earlier winners, rounded up
    to micros, and at least the reserve. Noise is drawn in order of ad id, so it depends neither on the order of the
    ads nor on their bids. A missing, negative or non-finite relevance is an InputError.
    """
    check_weights("relevance", bids, relevance)
    rng = np.random.default_rng([seed, 1])  # another random stream than that of the answer written under this seed
    order = sorted(bids)
    left = {ad_id: bids[ad_id] for ad_id in order if bids[ad_id] >= settings.reserve}
    won: list[Won] = []
    for _ in range(settings.segments):
        # Drawn for all ads, winners included, so that the noise of a segment does not depend on earlier winners.
        noise = dict(zip(order, rng.gumbel(size=len(order)), strict=True))
        perturbed = {ad_id: relevance[ad_id] * float(np.exp(noise[ad_id])) for ad_id in left}
        ranking = rank(left, perturbed)
        if not ranking:
            break
        winner, runner_up = ranking[0], ranking[1] if len(ranking) > 1 else None
        won.append(Won(winner.ad_id, max(settings.reserve, price_to_keep(winner, runner_up))))
        del left[winner.ad_id]
    return tuple(won)
