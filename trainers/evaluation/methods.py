"""What the mechanisms of the table share: the arena that they play in, scores before generation, forced writing.

One policy call covers all contexts of a step, so that tables of thousands of answers take minutes. Every rival gets the
run's base policy and its latest pCTR model. The rivals themselves are in `rivals`, their settings in `tuning`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.encoder import shared_encoder
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.baselines import SHOWN_BID, BaselineAnswer, restricted
from mechanism.baselines.ranking import Won
from mechanism.objective import Penalty, reward
from mechanism.types import AdId, Context
from trainers.reward.model import ClickPredictor


@dataclass(frozen=True, slots=True)
class Arena:
    """What every rival is given: the base policy, the pCTR model, and the penalty and lambda of the reward (Eq. 5)."""

    policy: Policy
    predictor: ClickPredictor
    penalty: Penalty
    lam: float


@dataclass(frozen=True, slots=True)
class Played:
    """One method's answers to the contexts, in order, and the seconds that all of them took."""

    answers: tuple[BaselineAnswer, ...]
    seconds: float


def play_policy(
    policy: Policy, contexts: Sequence[Context], seed: int, sampling: SamplingSettings | None = None
) -> Played:
    """Run the generative auction itself: one answer, first price."""
    started = time.monotonic()
    answers = policy.generate(contexts, 1, seed, sampling)
    return Played(
        tuple(BaselineAnswer(own[0], c.bids(), 1) for c, own in zip(contexts, answers, strict=True)),
        time.monotonic() - started,
    )


def write_winners(
    policy: Policy,
    contexts: Sequence[Context],
    won: Sequence[Sequence[Won]],
    sampling: SamplingSettings,
    seed: int,
) -> tuple[BaselineAnswer, ...]:
    """Write one answer to each context that shows every winner, from the winners alone."""
    winners = [restricted(c, (w.ad_id for w in own), SHOWN_BID) for c, own in zip(contexts, won, strict=True)]
    answers = policy.generate(winners, 1, seed, sampling.showing_all())
    return tuple(
        BaselineAnswer(own[0], {w.ad_id: w.price for w in prices}, 1) for own, prices in zip(answers, won, strict=True)
    )


def learned_reward(arena: Arena, contexts: Sequence[Context], answers: Sequence[BaselineAnswer]) -> float:
    """Return the mean reward of the answers under the pCTR model, in points (Eq. 5)."""
    pairs = [(c, own.generation.answer) for c, own in zip(contexts, answers, strict=True)]
    predicted = arena.predictor.probabilities(pairs)
    scored = zip(pairs, predicted, strict=True)
    return float(np.mean([reward(a, c.bids(), p, arena.penalty, arena.lam) for (c, a), p in scored]))


def retrieval_scores(contexts: Sequence[Context], sharpness: float) -> list[dict[AdId, float]]:
    """Score the relevance q_i of every candidate: exp(cosine / sharpness) of query and ad under the frozen encoder."""
    encode = shared_encoder().encode
    scores = []
    for context in contexts:
        vectors = encode([context.query, *(f"{c.ad.title}: {c.ad.text}" for c in context.candidates)])
        cosines = vectors[1:] @ vectors[0]
        weights = np.exp((cosines - cosines.max()) / sharpness)
        scores.append({c.ad.id: float(w) for c, w in zip(context.candidates, weights, strict=True)})
    return scores


def with_ids(contexts: Sequence[Context]) -> list[Context]:
    """Return the contexts under distinct ids (a query may be drawn twice)."""
    return [replace(c, id=f"{c.id}#{k}") for k, c in enumerate(contexts)]
