"""Step 2b: sampled answers become preference groups: a winner and the losers it beats by more than delta_th (Eq. 6).

Counterfactual bids: the same answers are scored again under fresh bids. The winner changes with the bids, so the pairs
teach the policy what a bid means, without sampling more answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mechanism.errors import InputError
from mechanism.objective import Penalty, reward
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import AdId, Answer, Context
from trainers.artifacts.sampled import Sampled
from trainers.config import PreferenceConfig
from trainers.optimisation.groups import PreferenceGroup


def rewards_of(
    context: Context,
    answers: Sequence[Answer],
    ctr: Sequence[Mapping[AdId, float]],
    penalty: Penalty,
    lam: float,
    qualities: Sequence[float] | None = None,
    quality_weight: float = 0.0,
) -> list[float]:
    """Return R(y) of every answer under the context's bids, in points (Eq. 5).

    Raises:
        InputError: if quality has a weight and `qualities` are missing.
    """
    if quality_weight > 0 and qualities is None:
        raise InputError("qualities", None, "give one for each answer, since preference.quality_weight is above 0")
    bids, known = context.bids(), qualities or [1.0] * len(answers)
    return [
        reward(a, bids, p, penalty, lam, quality=q, quality_weight=quality_weight)
        for a, p, q in zip(answers, ctr, known, strict=True)
    ]


def redraw_bids(context: Context, rng: np.random.Generator) -> Context:
    """Return the context with fresh bids, uniform on {1..100} points."""
    bids = rng.integers(1, 101, size=len(context.candidates)) * MICROS_PER_POINT
    return context.with_bids({c.ad.id: int(b) for c, b in zip(context.candidates, bids, strict=True)})


def build_groups(
    sampled: Sequence[Sampled],
    ctr: Sequence[Sequence[Mapping[AdId, float]]],
    config: PreferenceConfig,
    penalty: Penalty,
    rng: np.random.Generator,
    redraw: Callable[[Context, np.random.Generator], Context] = redraw_bids,
    *,
    qualities: Sequence[Sequence[float]] | None = None,
    every_answer: bool = False,
) -> list[PreferenceGroup]:
    """Build groups of every context under its own bids and under `counterfactual_bids` further ones from `redraw`.

    `ctr[k][m]` are the click probabilities in answer m of context k, and `qualities[k][m]` its quality, needed where
    `config.quality_weight` is above 0. A context in which no answer beats another by more than delta gives no group.
    With more than `config.losers` losers some are drawn at random: they teach nearly as much, and the cost of a step
    grows with its answers. With `every_answer` a group holds all answers, for methods that learn from the rewards
    themselves, and only contexts with equal rewards give none: there is nothing to learn from them.
    """
    groups: list[PreferenceGroup] = []
    for number, (item, probabilities) in enumerate(zip(sampled, ctr, strict=True)):
        answers = [g.answer for g in item.generations]
        own = None if qualities is None else qualities[number]
        versions = [item.context, *(redraw(item.context, rng) for _ in range(config.counterfactual_bids))]
        for context in versions:
            rewards = rewards_of(context, answers, probabilities, penalty, config.lam, own, config.quality_weight)
            winner = int(np.argmax(rewards))
            if every_answer:
                losers = [m for m in range(len(rewards)) if m != winner] if min(rewards) < rewards[winner] else []
            else:
                losers = [m for m, r in enumerate(rewards) if rewards[winner] - r > config.delta]
                if config.losers is not None and len(losers) > config.losers:
                    losers = sorted(int(m) for m in rng.choice(losers, size=config.losers, replace=False))
            if losers:
                groups.append(PreferenceGroup(context, number, winner, tuple(losers), tuple(rewards)))
    return groups
