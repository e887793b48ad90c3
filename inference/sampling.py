"""The decoding loop: many answers at once, each under its own marker constraint, with exact log-probabilities.

`decode` yields every token as it is chosen, so rollouts and streaming use the same loop. A prompt is encoded once for
all its samples, and finished rows are dropped from the batch. Each row has its own random numbers: the end of one row
does not change what another row writes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from inference.cache import InPlaceCache
from inference.constraint import MarkerConstraint, MarkerVocabulary
from mechanism.errors import ConfigError
from mechanism.trie import CandidateTrie


class ModelOutput(Protocol):
    """The part of a transformers output that decoding uses: logits (B, L, V)."""

    @property
    def logits(self) -> torch.Tensor: ...


class CausalModel(Protocol):
    """The part of a transformers causal language model that decoding uses."""

    @property
    def device(self) -> torch.device: ...

    @property
    def config(self) -> Any: ...

    def __call__(self, **inputs: object) -> ModelOutput: ...


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How answers are sampled.

    A temperature of 0 takes the best token; `top_k` 0 and `top_p` 1 keep every token. `max_ads` bounds the ads of an
    answer. Without `constrained` nothing restricts the markers, to measure the model by itself. Settings out of range
    are ConfigErrors.
    """

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    max_new_tokens: int = 96
    constrained: bool = True
    max_ads: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError("sampling.temperature", self.temperature, "give a finite number >= 0")
        if not 0 < self.top_p <= 1:
            raise ConfigError("sampling.top_p", self.top_p, "give a share above 0 and up to 1 (1 keeps every token)")
        if self.top_k < 0:
            raise ConfigError("sampling.top_k", self.top_k, "give a whole number >= 0 (0 keeps every token)")
        if self.max_new_tokens < 1:
            raise ConfigError("sampling.max_new_tokens", self.max_new_tokens, "give a whole number >= 1")
        if self.max_ads is not None and self.max_ads < 0:
            raise ConfigError("sampling.max_ads", self.max_ads, "give a whole number >= 0, or none for no limit")


@dataclass(slots=True)
class Row:
    """One answer while it is written: the constraint's state, the tokens so far, and their log-probability (nats)."""

    constraint: MarkerConstraint
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finished: bool = False


@torch.inference_mode()
def decode(
    model: CausalModel,
    vocabulary: MarkerVocabulary,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[CandidateTrie],
    samples: int,
    settings: SamplingSettings,
    generator: torch.Generator,
) -> Generator[tuple[int, int], None, list[Row]]:
    """Yield (row number, token) as tokens are chosen, and return the rows.

    Rows are numbered prompt by prompt, with `samples` rows each. The cache holds prompts * samples * (longest prompt +
    max_new_tokens) columns.
    """
    device = model.device
    width = max(len(p) for p in prompts)
    pad = min(vocabulary.end_tokens)
    ids_BP = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask_BP = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions_BP = (mask_BP.cumsum(-1) - 1).clamp(min=0)
    cache = InPlaceCache(model.config.num_hidden_layers, width + settings.max_new_tokens)
    out = model(
        input_ids=ids_BP,
        attention_mask=mask_BP,
        position_ids=positions_BP,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    repeat = torch.arange(len(prompts), device=device).repeat_interleave(samples)
    cache.select(repeat)
    logits_BV = out.logits[:, -1].float()[repeat]
    mask, lengths = mask_BP[repeat], mask_BP.sum(-1)[repeat]
    rows = [Row(MarkerConstraint(vocabulary, tries[i // samples], settings.max_ads)) for i in range(len(repeat))]
    # Strictly below 1, so that rounding cannot carry a draw past the last token with any probability.
    noise = torch.rand(len(rows), settings.max_new_tokens, generator=generator, dtype=torch.float64)
    noise = noise.clamp(max=1 - 2**-50).to(device)
    active = list(range(len(rows)))
    for step in range(settings.max_new_tokens):
        writing = [k for k, i in enumerate(active) if not rows[i].finished]
        chosen = _choose(
            logits_BV,
            [rows[i] for i in active],
            settings,
            vocabulary,
            settings.max_new_tokens - step,
            noise[active, step],
        )
        yield from ((active[k], chosen[k]) for k in writing)
        kept = [k for k in writing if not rows[active[k]].finished]
        if not kept or step + 1 == settings.max_new_tokens:
            break
        tokens = torch.tensor(chosen, device=device)
        # Dropping rows copies the cache, which pays off only after enough of them have finished.
        if len(kept) < 0.8 * len(active):
            keep = torch.tensor(kept, device=device)
            cache.select(keep)
            active, tokens, mask, lengths = [active[k] for k in kept], tokens[keep], mask[keep], lengths[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=(lengths + step)[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits_BV = out.logits[:, -1].float()
    return rows


def _choose(
    logits_BV: torch.Tensor,
    rows: Sequence[Row],
    settings: SamplingSettings,
    vocabulary: MarkerVocabulary,
    tokens_left: int,
    noise_B: torch.Tensor,
) -> list[int]:
    """Return the next token of every row, and update the rows. Finished rows still in the batch get padding."""
    chosen = [min(vocabulary.end_tokens)] * len(rows)
    free = [k for k, row in enumerate(rows) if not row.finished and not row.constraint.inside]
    inside = [(k, row.constraint.allowed()) for k, row in enumerate(rows) if not row.finished and row.constraint.inside]
    if free:
        logits = logits_BV[free]
        if settings.constrained:
            forbid(logits, [rows[k].constraint for k in free], vocabulary, tokens_left)
        probabilities, order = _distribution(logits, settings)
        index, logprobs = _draw(probabilities, noise_B[free])
        tokens = (index if order is None else order.gather(1, index)).flatten().tolist()
        for k, token, logprob in zip(free, tokens, logprobs, strict=True):
            chosen[k] = token
            _append(rows[k], token, logprob, vocabulary, settings)
    for k, allowed in inside:
        if len(allowed) == 1:
            chosen[k] = allowed[0]
            rows[k].constraint.advance(allowed[0])
            rows[k].tokens.append(allowed[0])
    forks = [(k, allowed) for k, allowed in inside if len(allowed) > 1]
    if forks:
        _choose_on_tries(logits_BV, rows, forks, settings, noise_B, chosen)
    return chosen


def forbid(
    logits_BV: torch.Tensor, constraints: Sequence[MarkerConstraint], vocabulary: MarkerVocabulary, tokens_left: int
) -> None:
    """Mask, in place, the tokens that may not follow outside of a marker."""
    closed_B = [not constraint.may_open(tokens_left) for constraint in constraints]
    mask_logits(logits_BV, closed_B, [constraint.barred() for constraint in constraints], vocabulary)


def mask_logits(
    logits_BV: torch.Tensor, closed_B: Sequence[bool], barred_B: Sequence[frozenset[int]], vocabulary: MarkerVocabulary
) -> None:
    """Mask, in place, the tokens that are always forbidden, openers in closed rows, and each row's barred tokens."""
    forbidden, openers = vocabulary.columns(logits_BV.device)
    logits_BV[:, forbidden] = -math.inf
    closed = [k for k, is_closed in enumerate(closed_B) if is_closed]
    if closed:
        logits_BV[torch.tensor(closed, device=logits_BV.device)[:, None], openers] = -math.inf
    barred = [(k, token) for k, tokens in enumerate(barred_B) for token in tokens]
    if barred:
        at = torch.tensor(barred, device=logits_BV.device)
        logits_BV[at[:, 0], at[:, 1]] = -math.inf


def _choose_on_tries(
    logits_BV: torch.Tensor,
    rows: Sequence[Row],
    forks: Sequence[tuple[int, list[int]]],
    settings: SamplingSettings,
    noise_B: torch.Tensor,
    chosen: list[int],
) -> None:
    """Choose the tokens of `forks`, the rows inside a marker with several allowed tokens; update `chosen` and rows."""
    at, width = [k for k, _ in forks], max(len(allowed) for _, allowed in forks)
    columns = torch.tensor([allowed + [-1] * (width - len(allowed)) for _, allowed in forks], device=logits_BV.device)
    scores = logits_BV[at].gather(1, columns.clamp(min=0)).masked_fill(columns < 0, -math.inf)
    probabilities = column_probabilities(scores.cpu().double(), settings)
    index, logprobs = _draw(probabilities, noise_B[at].cpu())
    picks = zip(forks, index.flatten().tolist(), logprobs, probabilities.tolist(), strict=True)
    for (k, allowed), pick, logprob, row_probabilities in picks:
        chosen[k] = allowed[pick]
        rows[k].logprob += logprob
        rows[k].constraint.advance(allowed[pick], dict(zip(allowed, row_probabilities, strict=False)))
        rows[k].tokens.append(allowed[pick])


def _append(row: Row, token: int, logprob: float, vocabulary: MarkerVocabulary, settings: SamplingSettings) -> None:
    row.logprob += logprob
    if token in vocabulary.end_tokens:
        row.finished = True
        return
    row.tokens.append(token)
    if settings.constrained:
        row.constraint.advance(token)


def _draw(probabilities_BK: torch.Tensor, noise_B: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
    """Return columns (B, 1) by inverse transform of noise (B,) in [0, 1), and their log-probabilities."""
    cumulative = probabilities_BK.double().cumsum(-1)
    index = (cumulative <= noise_B[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
    # Only probabilities that are not finite reach past the end; their log-probability is not finite either.
    index = index.clamp(max=probabilities_BK.shape[-1] - 1)
    return index, probabilities_BK.gather(1, index)[:, 0].double().log().tolist()


def column_probabilities(logits_BV: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Return the probabilities (B, V) of all columns after temperature and truncation, which sets them to 0."""
    probabilities, order = _distribution(logits_BV, settings)
    return probabilities if order is None else torch.zeros_like(logits_BV).scatter(1, order, probabilities)


def _distribution(logits_BV: torch.Tensor, settings: SamplingSettings) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return probabilities (B, K) after temperature, top-k and top-p in this order, with their columns (B, K).

    The columns are None if the probabilities are those of all columns in order.
    """
    size = logits_BV.shape[-1]
    count = 1 if settings.temperature == 0 else min(settings.top_k or size, size)
    if count == size and settings.top_p >= 1:
        return (logits_BV / (settings.temperature or 1.0)).softmax(-1), None
    # Sorted by falling logit, so that truncation works on `count` columns instead of the vocabulary.
    values, order = logits_BV.topk(count, dim=-1) if count < size else logits_BV.sort(dim=-1, descending=True)
    probabilities = (values / (settings.temperature or 1.0)).softmax(-1)
    if settings.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= settings.top_p, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities, order
