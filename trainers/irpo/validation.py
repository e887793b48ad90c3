"""Validation figures of an epoch's policy, and the guards that stop a run because of them.

Measured on contexts kept apart from training; the choice of the best epoch reads the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from inference.policy import Policy
from mechanism.errors import GuardError
from mechanism.markers import parse
from mechanism.objective import Penalty, reward, value
from mechanism.types import Context, Generation
from simulator.clicks import ClickModel
from trainers.config import GuardConfig
from trainers.optimisation.packing import answer_logprobs, pack
from trainers.optimisation.precision import autocast
from trainers.reward.model import ClickPredictor


@dataclass(frozen=True, slots=True)
class Validation:
    """Means per query, money in bid points.

    "learned" is by the epoch's click predictor, "true" by the simulator (None in a run on logs); `kl_to_base` is in
    nats per answer, estimated on the sampled answers.
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


def validate(
    policy: Policy,
    base: Policy,
    contexts: Sequence[Context],
    predictor: ClickPredictor,
    truth: ClickModel | None,
    penalty: Penalty,
    lam: float,
    seed: int,
) -> tuple[Validation, list[str]]:
    """Sample one answer to each context, as a user would get it; return the figures and the raw answers."""
    answers = [g[0] for g in policy.generate(contexts, 1, seed)]
    pairs = [(c, g.answer) for c, g in zip(contexts, answers, strict=True)]
    learned = predictor.probabilities(pairs)
    revenue = true_reward = None
    if truth is not None:
        true = [truth.probabilities(c, a) for c, a in pairs]
        revenue = _mean([value(a, c.bids(), p) for (c, a), p in zip(pairs, true, strict=True)])
        true_reward = _mean([reward(a, c.bids(), p, penalty, lam) for (c, a), p in zip(pairs, true, strict=True)])
    measured = Validation(
        revenue=revenue,
        true_reward=true_reward,
        learned_reward=_mean([reward(a, c.bids(), p, penalty, lam) for (c, a), p in zip(pairs, learned, strict=True)]),
        ads_per_answer=_mean([len(a.insertions) for _, a in pairs]),
        faults_per_answer=_mean([len(a.faults) for _, a in pairs]),
        kl_to_base=kl_estimate(policy, base, contexts, answers),
        answers=len(pairs),
    )
    return measured, [a.raw for _, a in pairs]


def learned_reward_of(
    raw_answers: Sequence[str],
    contexts: Sequence[Context],
    predictor: ClickPredictor,
    penalty: Penalty,
    lam: float,
) -> float:
    """Score answers that `validate` returned under another predictor; return their mean learned reward."""
    pairs = [(c, parse(raw, [x.ad for x in c.candidates])) for c, raw in zip(contexts, raw_answers, strict=True)]
    learned = predictor.probabilities(pairs)
    return _mean([reward(a, c.bids(), p, penalty, lam) for (c, a), p in zip(pairs, learned, strict=True)])


@torch.inference_mode()
def kl_estimate(
    policy: Policy, base: Policy, contexts: Sequence[Context], answers: Sequence[Generation], batch: int = 16
) -> float:
    """Estimate KL(pi || pi_0) in nats per answer: the mean of log pi(y) - log pi_0(y) over answers sampled from pi."""
    differences: list[float] = []
    order = sorted(range(len(contexts)), key=lambda i: len(answers[i].token_ids))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        prompts = [policy.prompt_ids(contexts[i]) for i in rows]
        written = [[policy.answer_ids(answers[i])] for i in rows]
        decided = [[policy.decided(contexts[i], answers[i])] for i in rows]
        packed = pack(prompts, written, decided).to(policy.model.device)
        with autocast("auto", policy.model.device.type):
            difference = answer_logprobs(policy.model, packed) - answer_logprobs(base.model, packed)
        differences += difference[:, 0].double().tolist()
    return _mean(differences)


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
