"""Several answers behind one prompt in one forward pass (shared-prefix packing).

Prompts are long and answers short. For k answers of one context a plain preference trainer encodes 2(k-1)(P + R)
tokens, packed it is P + kR. Answers attend to the prompt and to themselves, not to each other, and their positions
continue the prompt's, so every log-probability equals that of a separate pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import MethodType
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from trainers.optimisation.restrictions import Masks, Pair, Restrictions, masks_of, padded_pairs, padded_tokens

LOGITS_AT_ONCE = 2**26
"""Most logits in memory at once (256 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B packed contexts of at most L tokens with at most K answers each.

    `ids_BL`, `positions_BL`: int64. `mask_B1LL`: bool, True where a row may attend to a column. `owner_BL`: the answer
    (0..K-1) that a token belongs to, -1 for prompt, padding and tokens that are not counted. Every answer is preceded
    by its own copy of the prompt's last token, so that each token is predicted by the column before it.

    `forbidden_BM` (tokens), `barred_BX2` and `allowed_BX2` (column, token): the restrictions of the counted tokens, see
    `restrictions.masks_of`; int64, padded with -1.
    """

    ids_BL: torch.Tensor
    positions_BL: torch.Tensor
    mask_B1LL: torch.Tensor
    owner_BL: torch.Tensor
    forbidden_BM: torch.Tensor
    barred_BX2: torch.Tensor
    allowed_BX2: torch.Tensor
    answers: int

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name; `PackedBatch(**tensors, answers=K)` is the batch again."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "answers"}

    def to(self, device: Any) -> PackedBatch:
        """Return the batch on another device."""
        return PackedBatch(**{name: t.to(device) for name, t in self.tensors().items()}, answers=self.answers)

    def inputs(self) -> dict[str, Any]:
        """Return the keyword arguments of a transformers model's forward."""
        return {
            "input_ids": self.ids_BL,
            "position_ids": self.positions_BL,
            "attention_mask": self.mask_B1LL,
            "use_cache": False,
        }

    def masks(self) -> Masks:
        """Return the restrictions of the counted tokens, in order."""
        return masks_of(self.owner_BL, self.forbidden_BM, self.barred_BX2, self.allowed_BX2)


def pack(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    counted: Sequence[Sequence[Sequence[bool]]] | None = None,
    restrictions: Sequence[Restrictions] | None = None,
) -> PackedBatch:
    """Pack one prompt (at least one token) and its answers into each row; rows are padded on the right.

    Tokens that are not `counted` (same shape as `answers`; None: all are) are encoded but belong to no answer, so that
    they have no log-probability. `restrictions` are those of each row's answers; None: the whole vocabulary competes.
    """
    lengths = [len(p) - 1 + sum(len(a) + 1 for a in own) for p, own in zip(prompts, answers, strict=True)]
    rows, width = len(prompts), max(lengths)
    ids = torch.zeros(rows, width, dtype=torch.int64)
    positions = torch.zeros(rows, width, dtype=torch.int64)
    owner = torch.full((rows, width), -1, dtype=torch.int64)
    segment = torch.full((rows, width), -2, dtype=torch.int64)
    allowed: list[list[Pair]] = [[] for _ in prompts]
    barred: list[list[Pair]] = [[] for _ in prompts]
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
            if restrictions is not None:
                allowed[b] += [[start + 1 + at, token] for at, token in restrictions[b].allowed[k]]
                barred[b] += [[start + 1 + at, token] for at, token in restrictions[b].barred_pairs(k)]
            start = end
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = segment[:, :, None] == segment[:, None, :]
    to_prompt = segment[:, None, :] == -1
    mask = causal & (same | to_prompt)
    return PackedBatch(
        ids_BL=ids,
        positions_BL=positions,
        mask_B1LL=mask[:, None],
        owner_BL=owner,
        forbidden_BM=padded_tokens([r.forbidden for r in restrictions] if restrictions else [[] for _ in prompts]),
        barred_BX2=padded_pairs(barred),
        allowed_BX2=padded_pairs(allowed),
        answers=max(len(own) for own in answers),
    )


def token_logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return log pi(token | prompt, own answer so far), shape (N,), for the tokens where `owner >= 0`, in order.

    The probabilities are renormalised over the tokens that compete under the batch's restrictions.
    """
    return _logprobs(model, batch)


def add_packed_forward(model: Any) -> None:
    """Make `model(packed=batch.tensors())` return `token_logprobs`.

    A wrapped model (DeepSpeed, DistributedDataParallel) must be called through its forward, or its hooks do not run.
    """
    plain = model.forward

    def forward(self: Any, *args: Any, packed: dict[str, torch.Tensor] | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return plain(*args, **kwargs)
        # Log-probabilities by token need no number of answers.
        return _logprobs(self, PackedBatch(**packed, answers=0))

    model.forward = MethodType(forward, model)


def predictors(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return the hidden states (N, D) that predict the counted tokens, in order."""
    rows_N, columns_N = (batch.owner_BL >= 0).nonzero(as_tuple=True)
    hidden_BLD = model.base_model(
        input_ids=batch.ids_BL, position_ids=batch.positions_BL, attention_mask=batch.mask_B1LL, use_cache=False
    ).last_hidden_state
    predictors_ND: torch.Tensor = hidden_BLD[rows_N, columns_N - 1]
    return predictors_ND


def restricted_logits(model: Any, predictors_ND: torch.Tensor, masks: Masks) -> torch.Tensor:
    """Return logits (N, V) in float32, -inf where a token does not compete."""
    return masks.apply(model.get_output_embeddings()(predictors_ND).float())


def pieces_of(count: int, vocabulary: int) -> list[tuple[int, int]]:
    """Return the ranges of rows whose logits are in memory at once."""
    piece = max(1, LOGITS_AT_ONCE // vocabulary)
    return [(start, min(count, start + piece)) for start in range(0, count, piece)]


def _logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Project only the answers' predictors onto the vocabulary, large ones in pieces recomputed for the gradient."""
    predictors_ND, masks = predictors(model, batch), batch.masks()
    targets_N = batch.ids_BL[batch.owner_BL >= 0]
    pieces = pieces_of(len(targets_N), model.config.vocab_size)
    if len(pieces) <= 1:
        return _projected(model, predictors_ND, masks, targets_N)
    return torch.cat(
        [
            checkpoint(_projected, model, predictors_ND[s:e], masks.rows(s, e), targets_N[s:e], use_reentrant=False)
            for s, e in pieces
        ]
    )


def _projected(model: Any, predictors_ND: torch.Tensor, masks: Masks, targets_N: torch.Tensor) -> torch.Tensor:
    logits_NV = restricted_logits(model, predictors_ND, masks)
    return logits_NV.gather(1, targets_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def sum_by_answer(token_logprobs_N: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """Sum log pi(y | prompt) of every packed answer, shape (B, K); 0 where a row has fewer answers."""
    rows_N, columns_N = (batch.owner_BL >= 0).nonzero(as_tuple=True)
    slots_N = rows_N * batch.answers + batch.owner_BL[rows_N, columns_N]
    flat = torch.zeros(len(batch.ids_BL) * batch.answers, device=batch.ids_BL.device)
    return flat.index_add(0, slots_N, token_logprobs_N).view(len(batch.ids_BL), batch.answers)


def count_by_answer(batch: PackedBatch) -> torch.Tensor:
    """Count the tokens of every packed answer that have a log-probability, shape (B, K)."""
    return sum_by_answer(torch.ones(int((batch.owner_BL >= 0).sum()), device=batch.owner_BL.device), batch)


def answer_logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return log pi(y | prompt) of every packed answer by one forward pass, shape (B, K)."""
    return sum_by_answer(token_logprobs(model, batch), batch)
