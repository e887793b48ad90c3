"""Proposed answers: written by the policy to show ads that an auction chose, and scored like sampled ones.

Answers that a policy samples by itself hardly ever hold the right two ads while it prefers one, or others. A proposal
fixes the ads first, by bid times the predicted click rate before an answer exists, and leaves the words to the policy,
which then sees these ads alone. Preference optimisation moves the policy, which sees all candidates, towards those that
win by the learned reward of the whole answer. Proposals are not distributed as the policy's own answers are, and their
log-probability is that beside their ads alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.baselines import SHOWN_BID, restricted
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import AdId, Context, Generation
from trainers.optimisation.restrictions import restrictions_of

SPREAD = 8.0
"""Points of expected value of one unit of the noise that varies the chosen ads."""
SAME_CATEGORY = 0.3
"""Factor on the value of an ad beside one of its own category, whose clicks it would take."""


def propose(
    policy: Policy,
    contexts: Sequence[Context],
    rates: Sequence[Mapping[AdId, float]],
    count: int,
    wordings: int,
    settings: SamplingSettings,
    seed: int,
) -> list[list[Generation]]:
    """Write answers to each context to show `count` choices of ads, each in up to `wordings` different ways.

    `rates` are predicted click rates by ad.
    `settings` are those that other answers to the contexts are sampled with: those that they do not allow are left out.
    """
    rng = np.random.default_rng(seed)
    chosen = [chosen_ads(c, p, count, rng) for c, p in zip(contexts, rates, strict=True)]
    asked = [restricted(c, ads, SHOWN_BID) for c, own in zip(contexts, chosen, strict=True) for ads in own]
    written = iter(policy.generate(asked, wordings, seed, settings.showing_all()))
    drawn = [{g.token_ids: g for _ in own for g in next(written)} for own in chosen]
    # Beside all candidates an id may be barred that was free, or a marker may not open so late.
    return [
        [g for g in own.values() if restrictions_of(policy, c, g, settings) is not None]
        for c, own in zip(contexts, drawn, strict=True)
    ]


def chosen_ads(
    context: Context, rates: Mapping[AdId, float], count: int, rng: np.random.Generator
) -> list[tuple[AdId, ...]]:
    """Choose `count` different sets of one or two ads: first the two most valuable ones, then with noise.

    Two ads are in the order of their value. There are fewer sets if the context has too few candidates.
    """
    ads = {c.ad.id: c.ad for c in context.candidates}
    worth = {c.ad.id: c.bid / MICROS_PER_POINT * rates[c.ad.id] for c in context.candidates}
    sets: list[tuple[AdId, ...]] = []
    for attempt in range(4 * count):
        if len(sets) == count:
            break
        noise = SPREAD * rng.gumbel(size=len(worth)) if attempt else np.zeros(len(worth))
        noisy = {ad_id: w + float(n) for (ad_id, w), n in zip(worth.items(), noise, strict=True)}
        first = max(noisy, key=lambda ad_id: noisy[ad_id])

        def beside(ad_id: AdId, first: AdId = first, noisy: Mapping[AdId, float] = noisy) -> float:
            alike = ads[ad_id].category and ads[ad_id].category == ads[first].category
            return noisy[ad_id] * (SAME_CATEGORY if alike else 1.0)

        second = max((ad_id for ad_id in worth if ad_id != first), key=beside, default=None)
        # Two sets of two for each of one.
        own = (first,) if second is None or len(sets) % 3 == 1 else (first, second)
        if own not in sets:
            sets.append(own)
    return sets
