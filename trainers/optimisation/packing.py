"""Several answers behind one prompt in one forward pass (shared-prefix packing).

Prompts are long and answers short. For k answers of one context a plain preference trainer encodes 2(k-1)(P + R)
tokens, packed it is P + kR. Answers attend to the prompt and to themselves, not to each other, and their positions
continue the prompt's, so every log-probability equals that of a separate pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**26
"""Most logits in memory at once (256 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B packed contexts of at most L tokens with at most K answers each.

    `ids_BL`, `positions_BL`: int64. `mask_B1LL`: bool, True where a row may attend to a column. `owner_BL`: the answer
    (0..K-1) that a token belongs to, -1 for prompt, padding and tokens that are not counted. Every answer is preceded
    by its own copy of the prompt's last token, so that each token is predicted by the column before it.
    """

    ids_BL: torch.Tensor
    positions_BL: torch.Tensor
    mask_B1LL: torch.Tensor
    owner_BL: torch.Tensor
    answers: int

    def to(self, device: Any) -> PackedBatch:
        """Return the batch on another device."""
        return PackedBatch(
            self.ids_BL.to(device),
            self.positions_BL.to(device),
            self.mask_B1LL.to(device),
            self.owner_BL.to(device),
            self.answers,
        )

    def inputs(self) -> dict[str, Any]:
        """Return the keyword arguments of a transformers model's forward."""
        return {
            "input_ids": self.ids_BL,
            "position_ids": self.positions_BL,
            "attention_mask": self.mask_B1LL,
            "use_cache": False,
        }


def pack(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    counted: Sequence[Sequence[Sequence[bool]]] | None = None,
) -> PackedBatch:
    """Pack one prompt (at least one token) and its answers into each row; rows are padded on the right.

    Tokens that are not `counted` (same shape as `answers`; None: all are) are encoded but belong to no answer, so that
    they have no log-probability.
    """
    lengths = [len(p) - 1 + sum(len(a) + 1 for a in own) for p, own in zip(prompts, answers, strict=True)]
    rows, width = len(prompts), max(lengths)
    ids = torch.zeros(rows, width, dtype=torch.int64)
    positions = torch.zeros(rows, width, dtype=torch.int64)
    owner = torch.full((rows, width), -1, dtype=torch.int64)
    segment = torch.full((rows, width), -2, dtype=torch.int64)
    for b, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        start = len(prompt) - 1
        ids[b, :start] = torch.tensor(prompt[:-1])
        positions[b, :start] = torch.arange(start)
        segment[b, :start] = -1
        for k, answer in enumerate(own):
            end = start + 1 + len(answer)
            ids[b, start:end] = torch.tensor([prompt[-1], *answer])
            positions[b, start:end] = torch.arange(len(prompt) - 1, len(prompt) + len(answer))
            own_tokens = torch.tensor(counted[b][k] if counted else [True] * len(answer), dtype=torch.bool)
            owner[b, start + 1 : end][own_tokens] = k
            segment[b, start:end] = k
            start = end
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = segment[:, :, None] == segment[:, None, :]
    to_prompt = segment[:, None, :] == -1
    mask = causal & (same | to_prompt)
    return PackedBatch(ids, positions, mask[:, None], owner, max(len(own) for own in answers))


def token_logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return log pi(token | prompt, own answer so far), shape (N,), for the tokens where `owner >= 0`, in order."""
    return _logprobs(model, batch.ids_BL, batch.positions_BL, batch.mask_B1LL, batch.owner_BL)


def add_packed_forward(model: Any) -> None:
    """Make `model(**batch.inputs(), owner_BL=...)` return `token_logprobs`.

    A wrapped model (DeepSpeed, DistributedDataParallel) must be called through its forward, or its hooks do not run.
    """
    plain = model.forward

    def forward(self: Any, *args: Any, owner_BL: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if owner_BL is None:
            return plain(*args, **kwargs)
        return _logprobs(self, kwargs["input_ids"], kwargs["position_ids"], kwargs["attention_mask"], owner_BL)

    model.forward = MethodType(forward, model)


def _logprobs(
    model: Any, ids_BL: torch.Tensor, positions_BL: torch.Tensor, mask_B1LL: torch.Tensor, owner_BL: torch.Tensor
) -> torch.Tensor:
    """Project only the answers' predictors onto the vocabulary, large ones in pieces recomputed for the gradient."""
    rows_N, columns_N = (owner_BL >= 0).nonzero(as_tuple=True)
    hidden_BLD = model.base_model(
        input_ids=ids_BL, position_ids=positions_BL, attention_mask=mask_B1LL, use_cache=False
    ).last_hidden_state
    predictors_ND = hidden_BLD[rows_N, columns_N - 1]
    targets_N = ids_BL[rows_N, columns_N]
    piece = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    if len(targets_N) <= piece:
        return _projected(model, predictors_ND, targets_N)
    pieces = zip(predictors_ND.split(piece), targets_N.split(piece), strict=True)
    return torch.cat([checkpoint(_projected, model, p, t, use_reentrant=False) for p, t in pieces])


def _projected(model: Any, predictors_ND: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    logits_NV: torch.Tensor = model.get_output_embeddings()(predictors_ND).float()
    return logits_NV.gather(1, targets_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def sum_by_answer(token_logprobs_N: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Sum log pi(y | prompt) of every packed answer, shape (B, K); 0 where a row has fewer answers."""
    rows_N, columns_N = (batch.owner_BL >= 0).nonzero(as_tuple=True)
    slots_N = rows_N * batch.answers + batch.owner_BL[rows_N, columns_N]
    flat = torch.zeros(len(batch.ids_BL) * batch.answers, device=batch.ids_BL.device)
    return flat.index_add(0, slots_N, token_logprobs_N).view(len(batch.ids_BL), batch.answers)


def answer_logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return log pi(y | prompt) of every packed answer by one forward pass, shape (B, K)."""
    return sum_by_answer(token_logprobs(model, batch), batch)
