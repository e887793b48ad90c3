"""The decoding loop: many answers at once, each under its own marker constraint, with exact log-probabilities.

`decode` yields every token as it is chosen, so the same loop serves rollouts (drained at once) and streaming. Prompts
are encoded once per context and repeated for its samples; finished rows leave the batch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from inference.cache import InPlaceCache
from inference.constraint import MarkerConstraint, MarkerVocabulary
from mechanism.trie import CandidateTrie


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How answers are drawn. `constrained` False lets the model write markers freely (to measure what it would do);
    `max_ads` bounds the ads of one answer."""

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    max_new_tokens: int = 96
    constrained: bool = True
    max_ads: int | None = None


@dataclass(slots=True)
class Row:
    """One answer in the making: the constraint's state, the tokens so far and their log-probability as sampled."""

    constraint: MarkerConstraint
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finished: bool = False


@torch.inference_mode()
def decode(
    model: Any,
    vocabulary: MarkerVocabulary,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[CandidateTrie],
    samples: int,
    settings: SamplingSettings,
    generator: torch.Generator,
) -> Generator[tuple[int, int], None, list[Row]]:
    """Yields (row number, token) as tokens are chosen; rows are numbered prompt-major, `samples` to a prompt.

    Returns (as the generator's value) the list of rows. Memory: prompts x samples x (prompt + max_new_tokens)
    cached columns.
    """
    width = max(len(p) for p in prompts)
    pad = next(iter(vocabulary.end_tokens))
    ids_BP = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
    mask_BP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    positions_BP = (mask_BP.cumsum(-1) - 1).clamp(min=0)
    cache = InPlaceCache(model.config.num_hidden_layers, width + settings.max_new_tokens)
    device = model.device
    out = model(
        input_ids=ids_BP.to(device), attention_mask=mask_BP.to(device), position_ids=positions_BP.to(device),
        past_key_values=cache, use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    repeat = torch.arange(len(prompts)).repeat_interleave(samples)
    cache.select(repeat.to(device))
    logits_BV = out.logits[:, -1].float().cpu()[repeat]
    mask, lengths = mask_BP[repeat], mask_BP.sum(-1)[repeat]
    rows = [Row(MarkerConstraint(vocabulary, tries[i // samples], settings.max_ads)) for i in range(len(repeat))]
    active = list(range(len(rows)))
    for step in range(settings.max_new_tokens):
        chosen = _choose(logits_BV, [rows[i] for i in active], settings, vocabulary, step, generator)
        yield from zip(active, chosen, strict=True)
        kept = [k for k, i in enumerate(active) if not rows[i].finished]
        if not kept or step + 1 == settings.max_new_tokens:
            break
        tokens = torch.tensor(chosen)
        if len(kept) < 0.8 * len(active):
            keep = torch.tensor(kept)
            cache.select(keep.to(device))
            active, tokens, mask, lengths = [active[k] for k in kept], tokens[keep], mask[keep], lengths[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model(
            input_ids=tokens[:, None].to(device), attention_mask=mask.to(device),
            position_ids=(lengths + step)[:, None].to(device), past_key_values=cache, use_cache=True,
        )  # fmt: skip
        logits_BV = out.logits[:, -1].float().cpu()
    return rows


def _choose(
    logits_BV: torch.Tensor,
    rows: Sequence[Row],
    settings: SamplingSettings,
    vocabulary: MarkerVocabulary,
    step: int,
    generator: torch.Generator,
) -> list[int]:
    """One token for every row; updates the rows. A finished row that still sits in the batch gets padding."""
    noise = torch.rand(len(rows), generator=generator, dtype=torch.float64)
    left = settings.max_new_tokens - step
    free = [k for k, row in enumerate(rows) if not row.finished and not row.constraint.inside]
    taken = set(free)
    chosen = [next(iter(vocabulary.end_tokens))] * len(rows)
    if free:
        logits = logits_BV[free]
        if settings.constrained:
            closed = torch.tensor([not rows[k].constraint.may_open(left) for k in free])
            logits[:, torch.from_numpy(vocabulary.forbidden)] = -math.inf
            if closed.any():
                columns = torch.from_numpy(vocabulary.closed)
                logits[closed.nonzero(), columns] = -math.inf
        for k, token, logprob in zip(free, *_draw(logits, settings, noise[free]), strict=True):
            _take(rows[k], token, logprob, vocabulary, settings)
            chosen[k] = token
    for k, row in enumerate(rows):
        if row.finished or not row.constraint.inside or k in taken:
            continue
        allowed = row.constraint.allowed()
        if len(allowed) == 1:
            row.constraint.advance(allowed[0])
            row.tokens.append(allowed[0])
            chosen[k] = allowed[0]
            continue
        scores = _warp(logits_BV[k, allowed][None], settings)[0]
        probabilities = scores.softmax(-1).double()
        index = min(int((probabilities.cumsum(-1) < noise[k] * probabilities.sum()).sum()), len(allowed) - 1)
        row.logprob += float(probabilities[index].log())
        row.constraint.advance(allowed[index], dict(zip(allowed, probabilities.tolist(), strict=True)))
        row.tokens.append(allowed[index])
        chosen[k] = allowed[index]
    return chosen


def _take(row: Row, token: int, logprob: float, vocabulary: MarkerVocabulary, settings: SamplingSettings) -> None:
    row.logprob += logprob
    if token in vocabulary.end_tokens:
        row.finished = True
        return
    row.tokens.append(token)
    if settings.constrained:
        row.constraint.advance(token)


def _draw(
    logits_BV: torch.Tensor, settings: SamplingSettings, noise_B: torch.Tensor
) -> tuple[list[int], list[float]]:
    """Tokens by inverse transform on the warped distribution, and their log-probabilities under it."""
    probabilities = _warp(logits_BV, settings).softmax(-1)
    cumulative = probabilities.double().cumsum(-1)
    tokens = (cumulative < (noise_B * cumulative[:, -1])[:, None]).sum(-1).clamp(max=logits_BV.shape[-1] - 1)
    # inverse transform may land on a zero-probability token only through rounding at the very end of the range
    picked = probabilities.gather(1, tokens[:, None])[:, 0]
    tokens = torch.where(picked > 0, tokens, probabilities.argmax(-1))
    picked = probabilities.gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), picked.double().log().tolist()


def _warp(logits_BV: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Temperature, then top-k, then top-p. A temperature of zero takes the best token."""
    if settings.temperature <= 0:
        best = logits_BV.argmax(-1, keepdim=True)
        return torch.full_like(logits_BV, -math.inf).scatter(1, best, 0.0)
    logits = logits_BV / settings.temperature
    size = logits.shape[-1]
    if 0 < settings.top_k < size:
        floor = logits.topk(settings.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, -math.inf)
    if settings.top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        dropped = (before >= settings.top_p).scatter(1, order, before >= settings.top_p)
        logits = logits.masked_fill(dropped, -math.inf)
    return logits
