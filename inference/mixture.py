"""Decoding from a mixture: each token is drawn from the weighted mean of what several prompts would write next.

All prompts of an answer read the same tokens, and its marker constraint holds for each of them before they are mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from inference.constraint import MarkerVocabulary
from inference.policy import ROW_COLUMNS, Policy
from inference.sampling import Row, SamplingSettings, begin_row, choose, column_probabilities, forbid, prefill
from mechanism.errors import InputError
from mechanism.types import Context, Generation


@dataclass(frozen=True, slots=True)
class Voice:
    """One prompt of a mixture, and its weight in it."""

    context: Context
    weight: float


def generate_mixed(
    policy: Policy,
    contexts: Sequence[Context],
    voices: Sequence[Sequence[Voice]],
    seed: int,
    settings: SamplingSettings,
) -> list[Generation]:
    """Return one answer to each context, drawn from the mixture of its voices; same arguments, same answers.

    The candidates of a context are the ads that its answer may show. Temperature and truncation apply to each voice
    before they are mixed, so a Generation's log-probability is that of the mixture.

    Raises:
        InputError: if there is not at least one voice for each context, or its weights do not sum to 1.
    """
    if len(voices) != len(contexts):
        raise InputError("voices", len(voices), f"give those of each of the {len(contexts)} contexts")
    for context, own in zip(contexts, voices, strict=True):
        if not math.isclose(sum(voice.weight for voice in own), 1.0):
            raise InputError(f"voices of context {context.id}", [v.weight for v in own], "give weights that sum to 1")
    generator = torch.Generator().manual_seed(seed)
    prompts = [[policy.prompt_ids(voice.context) for voice in own] for own in voices]
    answers: list[Generation] = []
    for begin, end in _batches(prompts, settings.max_new_tokens):
        rows = _decode(policy, contexts[begin:end], voices[begin:end], prompts[begin:end], settings, generator)
        answers += [policy.generation(c, row) for c, row in zip(contexts[begin:end], rows, strict=True)]
    return answers


def _batches(prompts: Sequence[Sequence[Sequence[int]]], new_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of consecutive answers that are decoded together."""
    begin = columns = 0
    for end, own in enumerate(prompts):
        wanted = sum(len(prompt) + new_tokens for prompt in own)
        if end > begin and columns + wanted > ROW_COLUMNS:
            yield begin, end
            begin, columns = end, 0
        columns += wanted
    if begin < len(prompts):
        yield begin, len(prompts)


@torch.inference_mode()
def _decode(
    policy: Policy,
    contexts: Sequence[Context],
    voices: Sequence[Sequence[Voice]],
    prompts: Sequence[Sequence[Sequence[int]]],
    settings: SamplingSettings,
    generator: torch.Generator,
) -> list[Row]:
    """Decode B answers with R voices in all, in lockstep."""
    device, vocabulary = policy.model.device, policy.vocabulary
    flat = [prompt for own in prompts for prompt in own]
    cache, logits_RV, mask_RL = prefill(policy.model, flat, min(vocabulary.end_tokens), settings.max_new_tokens)
    lengths_R = mask_RL.sum(-1)
    owner = [b for b, own in enumerate(voices) for _ in own]
    owner_R = torch.tensor(owner, device=device)
    weight_R = torch.tensor([voice.weight for own in voices for voice in own], dtype=torch.float64, device=device)
    rows = [
        begin_row(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), settings) for context in contexts
    ]
    noise = torch.rand(len(rows), settings.max_new_tokens, generator=generator, dtype=torch.float64)
    noise = noise.clamp(max=1 - 2**-50).to(device)
    as_mixed = replace(settings, temperature=1.0, top_p=1.0, top_k=0)
    for step in range(settings.max_new_tokens):
        _restrict(logits_RV, [rows[b] for b in owner], settings, vocabulary)
        weighted_RV = column_probabilities(logits_RV, settings).double() * weight_R[:, None]
        mixed_BV = weighted_RV.new_zeros(len(rows), vocabulary.size).index_add_(0, owner_R, weighted_RV)
        chosen = choose(mixed_BV.log(), rows, as_mixed, vocabulary, noise[:, step])
        if not any(row.tokens_left(settings) for row in rows):
            break
        mask_RL = torch.cat([mask_RL, mask_RL.new_ones(len(owner), 1)], dim=1)
        out = policy.model(
            input_ids=torch.tensor(chosen, device=device)[owner_R][:, None],
            attention_mask=mask_RL,
            position_ids=(lengths_R + step)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits_RV = out.logits[:, -1].float()
    return rows


def _restrict(
    logits_RV: torch.Tensor, rows_R: Sequence[Row], settings: SamplingSettings, vocabulary: MarkerVocabulary
) -> None:
    """Mask, in place, what each voice's answer may not write next."""
    free = [r for r, row in enumerate(rows_R) if not row.constraint.inside]
    if free:
        logits = logits_RV[free]
        left = [rows_R[r].tokens_left(settings) for r in free]
        forbid(logits, [rows_R[r].constraint for r in free], vocabulary, left)
        logits_RV[free] = logits
    for r, row in enumerate(rows_R):
        if row.constraint.inside:
            allowed = row.constraint.allowed()
            kept = logits_RV[r, allowed].clone()
            logits_RV[r] = -math.inf
            logits_RV[r, allowed] = kept
