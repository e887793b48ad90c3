"""Validation figures of an epoch's policy, and the guards that stop a run because of them.

Measured on contexts kept apart from training; the choice of the best epoch reads the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from inference.policy import Policy
from mechanism.errors import GuardError
from mechanism.markers import parse
from mechanism.objective import Penalty, reward, value
from mechanism.types import AdId, Answer, Context, Generation
from simulator.clicks import ClickModel
from trainers.config import GuardConfig
from trainers.irpo.quality_term import weighted_qualities
from trainers.optimisation.divergence import answer_divergences
from trainers.optimisation.groups import pack_groups, token_group
from trainers.optimisation.precision import autocast
from trainers.reward.model import ClickPredictor


@dataclass(frozen=True, slots=True)
class Validation:
    """Means per query, money in bid points.

    "learned" is by the epoch's click predictor, "true" by the simulator (None in a run on logs). The rewards include
    the quality term that the run trains with. `kl_to_base` is KL(pi || pi_0) in nats per answer.
    """

    revenue: float | None
    true_reward: float | None
    learned_reward: float
    ads_per_answer: float
    faults_per_answer: float
    kl_to_base: float
    answers: int

    def to_dict(self) -> dict[str, float | None]:
        """Return the figures as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ValidationAnswer:
    """An answer to a validation context, and how far its policy has drifted from the base along it (nats)."""

    generation: Generation
    divergence: float


def validation_of(
    contexts: Sequence[Context],
    answers: Sequence[ValidationAnswer],
    predictor: ClickPredictor,
    truth: ClickModel | None,
    penalty: Penalty,
    lam: float,
    quality_weight: float = 0.0,
) -> Validation:
    """Return the figures of one answer to each context."""
    written = [a.generation for a in answers]
    pairs = [(c, g.answer) for c, g in zip(contexts, written, strict=True)]
    qualities = weighted_qualities(
        [(c, g.answer, g.finished) for c, g in zip(contexts, written, strict=True)], quality_weight
    )
    revenue = true_reward = None
    if truth is not None:
        true = [truth.probabilities(c, a) for c, a in pairs]
        revenue = _mean([value(a, c.bids(), p) for (c, a), p in zip(pairs, true, strict=True)])
        true_reward = mean_reward(pairs, true, qualities, penalty, lam, quality_weight)
    learned = predictor.probabilities(pairs)
    return Validation(
        revenue=revenue,
        true_reward=true_reward,
        learned_reward=mean_reward(pairs, learned, qualities, penalty, lam, quality_weight),
        ads_per_answer=_mean([len(a.insertions) for _, a in pairs]),
        faults_per_answer=_mean([len(a.faults) for _, a in pairs]),
        kl_to_base=kl_to_base(answers),
        answers=len(pairs),
    )


def learned_reward_of(
    raw_answers: Sequence[str],
    contexts: Sequence[Context],
    predictor: ClickPredictor,
    penalty: Penalty,
    lam: float,
    quality_weight: float = 0.0,
) -> float:
    """Score answers that `validate` returned under another predictor; return their mean learned reward.

    Raw answers do not tell which were cut off, so for the quality term all count as finished.
    """
    pairs = [(c, parse(raw, [x.ad for x in c.candidates])) for c, raw in zip(contexts, raw_answers, strict=True)]
    qualities = weighted_qualities([(c, a, True) for c, a in pairs], quality_weight)
    return mean_reward(pairs, predictor.probabilities(pairs), qualities, penalty, lam, quality_weight)


def mean_reward(
    pairs: Sequence[tuple[Context, Answer]],
    ctr: Sequence[Mapping[AdId, float]],
    qualities: Sequence[float],
    penalty: Penalty,
    lam: float,
    quality_weight: float,
) -> float:
    """Return the mean R(y) of answers with their click probabilities and qualities, in points."""
    return _mean(
        [
            reward(a, c.bids(), p, penalty, lam, quality=q, quality_weight=quality_weight)
            for (c, a), p, q in zip(pairs, ctr, qualities, strict=True)
        ]
    )


def kl_to_base(answers: Sequence[ValidationAnswer]) -> float:
    """Return KL(pi || pi_0) in nats per answer (>= 0), added from short answers to long ones."""
    return _mean([a.divergence for a in sorted(answers, key=lambda a: len(a.generation.token_ids))])


def divergences_from(
    base: Policy, policy: Policy, contexts: Sequence[Context], answers: Sequence[Generation], batch: int = 16
) -> list[float]:
    """Return the divergence of a policy from the base along each answer that it sampled with its own settings, in nats.

    Whole next-token distributions are compared along the answers, see `divergence.answer_divergences`.
    """
    divergences: dict[int, float] = {}
    order = sorted(range(len(contexts)), key=lambda i: len(answers[i].token_ids))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        groups = [token_group(policy, contexts[i], [answers[i]], [0.0], policy.sampling) for i in rows]
        packed = pack_groups(groups).to(policy.model.device)
        with autocast("auto", policy.model.device.type):
            found = answer_divergences(policy.model, base.model, packed)[:, 0].double().tolist()
        divergences.update(zip(rows, found, strict=True))
    return [divergences[i] for i in range(len(contexts))]


def check_finite(now: Validation) -> None:
    """Check that every figure is a finite number.

    Raises:
        GuardError: if one is not.
    """
    figures = {name: v for name, v in now.to_dict().items() if v is not None}
    if not all(math.isfinite(v) for v in figures.values()):
        raise GuardError("nan", "a validation figure is not finite; lower optimisation.learning_rate", figures)


def check_guards(history: Sequence[Validation], config: GuardConfig) -> None:
    """Check the newest epoch in `history` against epoch 0 (the base) and the one before; those before it are good.

    Raises:
        GuardError: if the policy stopped inserting ads, drifted from the base, or gains learned but loses true reward.
    """
    base, now = history[0], history[-1]
    check_finite(now)
    if now.ads_per_answer < config.min_ads_per_answer:
        raise GuardError(
            "collapse",
            "the policy has all but stopped inserting ads; lower optimisation.learning_rate or penalty.per_ad",
            {"ads_per_answer": now.ads_per_answer, "allowed": config.min_ads_per_answer, "base": base.ads_per_answer},
        )
    if now.kl_to_base > config.max_kl_to_base:
        raise GuardError(
            "kl",
            "the policy has drifted too far from its base model; set optimisation.reference to base, or fewer epochs",
            {"kl_to_base": now.kl_to_base, "allowed": config.max_kl_to_base},
        )
    if len(history) < 2:
        return
    before = history[-2]
    if before.true_reward is None or now.true_reward is None:
        # A run on logs has no truth: there the gates compare the learned reward with held-out clicks.
        return
    drop = before.true_reward - now.true_reward
    if now.learned_reward > before.learned_reward and drop > config.reward_hacking_drop * abs(before.true_reward):
        raise GuardError(
            "reward_hacking",
            "the learned reward rises while the true one falls: collect more feedback (feedback.contexts)",
            {
                "learned_before": before.learned_reward,
                "learned_now": now.learned_reward,
                "true_before": before.true_reward,
                "true_now": now.true_reward,
            },
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
