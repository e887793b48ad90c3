"""The losses of preference optimisation and of its learned rivals, each a pure function of log-probabilities.

All take the same answers, so methods are compared on equal samples:

- `sigmoid` (DPO, Eq. 6 of arXiv 2512.10551): the winner over each loser, however narrowly it won;
- `margin`: every pair, by how much one answer beat the other;
- `winners`: best-of-M distillation, supervised learning of the winner;
- `rloo`: REINFORCE with a leave-one-out baseline (arXiv 2402.14740), clipped as in PPO (arXiv 1707.06347).

B contexts of up to K answers, the winner first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from trainers.config import OptimisationConfig


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """Answers (B, K) as a loss takes them; where `present_BK` is False a row has fewer answers.

    `logprobs_BK` under the policy in training, `reference_BK` under the reference, `sampling_BK` under the policy that
    wrote the answers, in nats; `rewards_BK` in points; `lengths_BK` in tokens that the policy decided.
    """

    logprobs_BK: torch.Tensor
    reference_BK: torch.Tensor
    sampling_BK: torch.Tensor
    rewards_BK: torch.Tensor
    lengths_BK: torch.Tensor
    present_BK: torch.Tensor


Loss = Callable[[ScoredAnswers, OptimisationConfig], torch.Tensor]
"""(answers, settings) -> the mean loss over the contexts, which count equally however many answers they have."""


def winner_margins(answers: ScoredAnswers, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return beta times the winner's log-ratio minus that of each other answer, (B, K-1), and which of them count."""
    ratio_BK = answers.logprobs_BK - answers.reference_BK
    return beta * (ratio_BK[:, :1] - ratio_BK[:, 1:]), answers.present_BK[:, 1:]


def sigmoid_loss(answers: ScoredAnswers, config: OptimisationConfig) -> torch.Tensor:
    """Return the mean over losers of -log sigmoid(beta * (winner's log-ratio - loser's)) (Eq. 6).

    With `sft_weight` the winner's mean negative log-likelihood per token is added.
    """
    margin_BJ, counts_BJ = winner_margins(answers, config.beta)
    return _mean_present(-logsigmoid(margin_BJ), counts_BJ) + _likelihood_term(answers, config)


def margin_loss(answers: ScoredAnswers, config: OptimisationConfig) -> torch.Tensor:
    """Return the mean over pairs of the cross-entropy between the policy's preference and that of the rewards.

    The probability that answer i beats j is sigmoid(beta * difference of log-ratios) by the policy, and
    sigmoid((R_i - R_j) / reward_scale) by the rewards (DPO with soft labels; REBEL, arXiv 2404.16767, regresses the
    same differences by squares). The logistic form has bounded gradients however far apart two rewards are. At its
    minimum log pi/pi_ref rises by 1 / (beta * reward_scale) nats a point: the optimum of Eq. 2 for a KL weight of
    beta * reward_scale points per nat.
    """
    ratio_BK = answers.logprobs_BK - answers.reference_BK
    first, second = torch.triu_indices(*2 * (ratio_BK.shape[1],), offset=1, device=ratio_BK.device)
    margin_BP = config.beta * (ratio_BK[:, first] - ratio_BK[:, second])
    target_BP = ((answers.rewards_BK[:, first] - answers.rewards_BK[:, second]) / config.reward_scale).sigmoid()
    counts_BP = answers.present_BK[:, first] & answers.present_BK[:, second]
    losses_BP = binary_cross_entropy_with_logits(margin_BP, target_BP, reduction="none")
    return _mean_present(losses_BP, counts_BP) + _likelihood_term(answers, config)


def winners_loss(answers: ScoredAnswers, config: OptimisationConfig) -> torch.Tensor:
    """Return the mean negative log-likelihood of the winners, in nats per decided token (best-of-M distillation)."""
    return -_winner_likelihood(answers)


def rloo_loss(answers: ScoredAnswers, config: OptimisationConfig) -> torch.Tensor:
    """Return minus the mean over answers of the clipped importance ratio times the leave-one-out advantage.

    The advantage is an answer's reward, in units of `reward_scale`, minus the mean of the other answers to its context.
    The reward includes -kl_weight * (log pi_sampling - log pi_ref), as in the KL-regularised objective. The ratio to
    the sampling policy is that of whole answers, clipped to 1 +- `clip`, because several steps use the same answers.
    """
    penalty_BK = config.kl_weight * (answers.sampling_BK - answers.reference_BK)
    reward_BK = (answers.rewards_BK / config.reward_scale - penalty_BK) * answers.present_BK
    others_B1 = answers.present_BK.sum(1, keepdim=True) - 1
    baseline_BK = (reward_BK.sum(1, keepdim=True) - reward_BK) / others_B1.clamp(min=1)
    advantage_BK = (reward_BK - baseline_BK) * (others_B1 > 0)
    log_ratio_BK = torch.where(answers.present_BK, answers.logprobs_BK - answers.sampling_BK, 0.0)
    ratio_BK = log_ratio_BK.exp()
    clipped_BK = ratio_BK.clamp(1 - config.clip, 1 + config.clip)
    gain_BK = torch.minimum(ratio_BK * advantage_BK, clipped_BK * advantage_BK)
    return -_mean_present(gain_BK, answers.present_BK)


LOSSES: Final[dict[str, Loss]] = {
    "sigmoid": sigmoid_loss,
    "margin": margin_loss,
    "winners": winners_loss,
    "rloo": rloo_loss,
}


def loss_of(config: OptimisationConfig) -> Loss:
    """Return the configured loss."""
    return LOSSES[config.loss if config.objective == "preference" else config.objective]


def _likelihood_term(answers: ScoredAnswers, config: OptimisationConfig) -> torch.Tensor | float:
    return -config.sft_weight * _winner_likelihood(answers) if config.sft_weight > 0 else 0.0


def _winner_likelihood(answers: ScoredAnswers) -> torch.Tensor:
    return (answers.logprobs_BK[:, 0] / answers.lengths_BK[:, 0].clamp(min=1)).mean()


def _mean_present(values_BX: torch.Tensor, counts_BX: torch.Tensor) -> torch.Tensor:
    """Return the mean over the contexts of the mean of the values that count."""
    return ((values_BX * counts_BX).sum(1) / counts_BX.sum(1).clamp(min=1)).mean()
