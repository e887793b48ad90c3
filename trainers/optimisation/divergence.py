"""The divergence of a policy from another one along given answers, from whole distributions at every token."""

from __future__ import annotations

from typing import Any

import torch

from trainers.optimisation.packing import PackedBatch, pieces_of, predictors, restricted_logits, sum_by_answer


@torch.inference_mode()
def answer_divergences(model: Any, other: Any, batch: PackedBatch) -> torch.Tensor:
    """Return sum_t KL(pi(. | y_<t) || pi'(. | y_<t)) of every packed answer, shape (B, K), in nats >= 0.

    The distributions are the constrained, renormalised ones. Over answers sampled from `model` its mean is
    KL(pi || pi'): by the chain rule the divergence of two autoregressive models is the expected sum of those of their
    next tokens. Summing each of these exactly (Rao-Blackwell) leaves the noise of the sampled prefixes only; the mean
    of log pi(y) - log pi'(y) over the same answers also has that of every drawn token, and can be negative.
    """
    own_ND, other_ND, masks = predictors(model, batch), predictors(other, batch), batch.masks()
    divergences = [own_ND.new_zeros(0, dtype=torch.float32)]
    for start, end in pieces_of(len(own_ND), model.config.vocab_size):
        part = masks.rows(start, end)
        own_NV = restricted_logits(model, own_ND[start:end], part).log_softmax(-1)
        other_NV = restricted_logits(other, other_ND[start:end], part).log_softmax(-1)
        probability_NV = own_NV.exp()
        # A masked token is -inf on both sides: it has probability zero and adds nothing.
        terms_NV = torch.where(probability_NV > 0, probability_NV * (own_NV - other_NV), 0.0)
        divergences.append(terms_NV.sum(-1).clamp(min=0))
    return sum_by_answer(torch.cat(divergences), batch)
