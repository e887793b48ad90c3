"""How good the policy of an epoch is, on contexts kept apart from training: the figures that guards and the choice of
the best epoch read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from inference.policy import Policy
from mechanism.markers import parse
from mechanism.objective import Penalty, reward, value
from mechanism.types import Context, Generation
from simulator.clicks import ClickModel
from trainers.optimisation.packing import answer_logprobs, pack
from trainers.reward.model import ClickPredictor


@dataclass(frozen=True, slots=True)
class Validation:
    """Means per query, in bid points where money. "learned" is under the epoch's click predictor, "true" under the
    simulator (None in a run on logs); `kl_to_base` in nats per answer, estimated on the sampled answers."""

    revenue: float | None
    true_reward: float | None
    learned_reward: float
    ads_per_answer: float
    faults_per_answer: float
    kl_to_base: float
    answers: int

    def to_dict(self) -> dict[str, float | None]:
        """For JSON."""
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
    """One answer to each context, as a user would get it: the figures, and the raw answers for later scoring."""
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
    """Mean learned reward of answers kept by `validate`, under any predictor."""
    pairs = [(c, parse(raw, [x.ad for x in c.candidates])) for c, raw in zip(contexts, raw_answers, strict=True)]
    learned = predictor.probabilities(pairs)
    return _mean([reward(a, c.bids(), p, penalty, lam) for (c, a), p in zip(pairs, learned, strict=True)])


@torch.inference_mode()
def kl_estimate(
    policy: Policy, base: Policy, contexts: Sequence[Context], answers: Sequence[Generation], batch: int = 16
) -> float:
    """Mean of log pi(y) - log pi_0(y) over sampled answers, nats per answer: an estimate of KL(pi || pi_0)."""
    differences: list[float] = []
    order = sorted(range(len(contexts)), key=lambda i: len(answers[i].token_ids))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        prompts = [policy.prompt_ids(contexts[i]) for i in rows]
        written = [[policy.answer_ids(answers[i])] for i in rows]
        decided = [[policy.decided(contexts[i], answers[i])] for i in rows]
        packed = pack(prompts, written, decided).to(policy.model.device)
        with torch.autocast(policy.model.device.type, torch.bfloat16):
            difference = answer_logprobs(policy.model, packed) - answer_logprobs(base.model, packed)
        differences += difference[:, 0].double().tolist()
    return _mean(differences)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
