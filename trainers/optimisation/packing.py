"""Several answers behind one prompt in one forward pass (shared-prefix packing).

Prompts are long and answers short. For k answers of one context a plain preference trainer encodes 2(k-1)(P + R)
tokens, packed it is P + kR. Answers attend to the prompt and to themselves, not to each other, and their positions
continue the prompt's, so every log-probability equals that of a separate pass. All contexts of a batch make one stream
of tokens without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import MethodType
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from trainers.optimisation.restrictions import Masks, Pair, Restrictions, masks_of
from trainers.optimisation.shared_prefix import Layout, shared_prefixes, use_shared_prefixes

LOGITS_AT_ONCE = 2**26
"""Most logits in memory at once (256 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """B contexts with at most K answers each, as a stream of T tokens: first all prompts, then all answers.

    `ids_T`, `positions_T` (in a separate pass): int64. `prompts_BP`, `answers_NA`, `prompt_N`: see
    `shared_prefix.Layout`. `owner_T`: number b * K + k of the answer that a token belongs to, -1 for prompts and tokens
    that are not counted. Every answer is preceded by its own copy of the prompt's last token, so that each token is
    predicted by the one before it.

    `forbidden_BM` (tokens, padded with -1), `barred_X2` and `allowed_Y2` (place in the stream, token): the restrictions
    of the counted tokens, see `restrictions.masks_of`; int64.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    owner_T: torch.Tensor
    prompts_BP: torch.Tensor
    answers_NA: torch.Tensor
    prompt_N: torch.Tensor
    forbidden_BM: torch.Tensor
    barred_X2: torch.Tensor
    allowed_Y2: torch.Tensor
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
            "input_ids": self.ids_T[None],
            "position_ids": self.positions_T[None],
            "layout": Layout(self.prompts_BP, self.answers_NA, self.prompt_N),
            "use_cache": False,
        }

    def counted(self) -> torch.Tensor:
        """Return the places of the counted tokens in the stream, in order."""
        return (self.owner_T >= 0).nonzero()[:, 0]

    def masks(self) -> Masks:
        """Return the restrictions of the counted tokens, in order."""
        return masks_of(self.owner_T, self.forbidden_BM, self.barred_X2, self.allowed_Y2, self.answers)


def pack(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    counted: Sequence[Sequence[Sequence[bool]]] | None = None,
    restrictions: Sequence[Restrictions] | None = None,
) -> PackedBatch:
    """Pack prompts (at least one token each) and the answers to each.

    Tokens that are not `counted` (same shape as `answers`; None: all are) are encoded but belong to no answer, so that
    they have no log-probability. `restrictions` are those of each prompt's answers; None: all tokens compete.
    """
    most = max(len(own) for own in answers)
    ids: list[int] = []
    positions: list[int] = []
    owner: list[int] = []
    prompt_places: list[torch.Tensor] = []
    answer_places: list[torch.Tensor] = []
    prompt_of: list[int] = []
    allowed: list[Pair] = []
    barred: list[Pair] = []

    def append(tokens: Sequence[int], first: int, owners: Sequence[int]) -> torch.Tensor:
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(first, first + len(tokens)))
        owner.extend(owners)
        return torch.arange(start, len(ids))

    for prompt in prompts:
        prompt_places.append(append(prompt[:-1], 0, [-1] * (len(prompt) - 1)))
    for b, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        for k, answer in enumerate(own):
            counts = counted[b][k] if counted else [True] * len(answer)
            owners = [b * most + k if counts_here else -1 for counts_here in counts]
            start = len(ids) + 1
            answer_places.append(append([prompt[-1], *answer], len(prompt) - 1, [-1, *owners]))
            prompt_of.append(b)
            if restrictions is not None:
                allowed += [[start + at, token] for at, token in restrictions[b].allowed[k]]
                barred += [[start + at, token] for at, token in restrictions[b].barred_pairs(k)]
    forbidden = [torch.tensor(r.forbidden, dtype=torch.int64) for r in restrictions or ()]
    return PackedBatch(
        ids_T=torch.tensor(ids),
        positions_T=torch.tensor(positions),
        owner_T=torch.tensor(owner),
        prompts_BP=_padded(prompt_places),
        answers_NA=_padded(answer_places),
        prompt_N=torch.tensor(prompt_of),
        forbidden_BM=_padded(forbidden or [torch.empty(0, dtype=torch.int64)] * len(prompts)),
        barred_X2=torch.tensor(barred, dtype=torch.int64).reshape(-1, 2),
        allowed_Y2=torch.tensor(allowed, dtype=torch.int64).reshape(-1, 2),
        answers=most,
    )


def _padded(rows: list[torch.Tensor]) -> torch.Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=-1)


def token_logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return log pi(token | prompt, own answer so far), shape (N,), for the tokens where `owner_T >= 0`, in order.

    The probabilities are renormalised over the tokens that compete under the batch's restrictions.
    """
    return _logprobs(model, batch)


def add_packed_forward(model: Any) -> None:
    """Make `model(packed=batch.tensors())` return `token_logprobs`, and the model take packed answers only.

    A wrapped model (DeepSpeed, DistributedDataParallel) must be called through its forward, or its hooks do not run.
    """
    plain = model.forward
    # For good: gradient checkpointing repeats layers when a context would have ended.
    use_shared_prefixes(model)

    def forward(self: Any, *args: Any, packed: dict[str, torch.Tensor] | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return plain(*args, **kwargs)
        # Log-probabilities by token need no number of answers but to find the prompt of each.
        return _logprobs(self, PackedBatch(**packed, answers=int(kwargs["answers"])))

    model.forward = MethodType(forward, model)


def predictors(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return the hidden states (N, D) that predict the counted tokens, in order."""
    with shared_prefixes(model):
        hidden_1TD = model.base_model(**batch.inputs()).last_hidden_state
    predictors_ND: torch.Tensor = hidden_1TD[0, batch.counted() - 1]
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
    targets_N = batch.ids_T[batch.counted()]
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
    """Sum log pi(y | prompt) of every packed answer, shape (B, K); 0 where a prompt has fewer answers."""
    rows = len(batch.prompts_BP)
    flat = torch.zeros(rows * batch.answers, device=batch.ids_T.device)
    return flat.index_add(0, batch.owner_T[batch.counted()], token_logprobs_N).view(rows, batch.answers)


def count_by_answer(batch: PackedBatch) -> torch.Tensor:
    """Count the tokens of every packed answer that have a log-probability, shape (B, K)."""
    return sum_by_answer(torch.ones(len(batch.counted()), device=batch.owner_T.device), batch)


def answer_logprobs(model: Any, batch: PackedBatch) -> torch.Tensor:
    """Return log pi(y | prompt) of every packed answer by one forward pass, shape (B, K)."""
    return sum_by_answer(token_logprobs(model, batch), batch)
