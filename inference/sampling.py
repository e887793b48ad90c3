"""The decoding loop: many answers at once, each under its own marker constraint, with exact log-probabilities.

`decode` yields every token as it is chosen, so rollouts and streaming use the same loop. A prompt is encoded once for
all its samples, and finished rows are dropped from the batch. Each row has its own random numbers: the end of one row
does not change what another row writes.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from inference.cache import InPlaceCache
from inference.constraint import MarkerConstraint, MarkerVocabulary
from mechanism.errors import ConfigError, InputError
from mechanism.trie import CandidateTrie
from mechanism.types import Generation


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
    answer. Without `constrained` nothing restricts the markers, to measure the model by itself. With `must_show` every
    candidate of the context is shown exactly once; with `one_segment` the answer then ends with the sentence that
    completes them. Settings out of range are ConfigErrors.
    """

    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    max_new_tokens: int = 96
    constrained: bool = True
    max_ads: int | None = None
    must_show: bool = False
    one_segment: bool = False

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
        if self.must_show and (self.max_ads is not None or not self.constrained):
            raise ConfigError("sampling.must_show", self.must_show, "give no max_ads, and keep the marker constraint")
        if self.one_segment and not self.must_show:
            raise ConfigError(
                "sampling.one_segment", self.one_segment, "give must_show too: a segment ends after its ads"
            )

    def showing_all(self) -> SamplingSettings:
        """Return the settings under which every candidate of a context is shown."""
        return replace(self, max_ads=None, must_show=True)


@dataclass(slots=True)
class Row:
    """One answer while it is written: the constraint's state, the tokens so far, and their log-probability (nats)."""

    constraint: MarkerConstraint
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    finished: bool = False

    def tokens_left(self, settings: SamplingSettings) -> int:
        """Return the tokens that may still be written: 0 once the answer has ended."""
        return 0 if self.finished else max(0, settings.max_new_tokens - len(self.tokens))


@torch.inference_mode()
def decode(
    model: CausalModel,
    vocabulary: MarkerVocabulary,
    prompts: Sequence[Sequence[int]],
    tries: Sequence[CandidateTrie],
    samples: int,
    settings: SamplingSettings,
    generator: torch.Generator,
    openings: Sequence[Generation] | None = None,
) -> Generator[tuple[int, int], None, list[Row]]:
    """Yield (row number, token) as tokens are chosen, and return the rows.

    Rows are numbered prompt by prompt, with `samples` rows each. The cache holds prompts * samples * (longest prompt +
    max_new_tokens) columns. Each row continues the opening of its prompt, if there is one: its tokens count towards
    max_new_tokens, its log-probability and its choices belong to the row.
    """
    device = model.device
    begun = prompts
    if openings is not None:
        begun = [[*p, *opening.token_ids] for p, opening in zip(prompts, openings, strict=True)]
    cache, logits_PV, mask_PL = prefill(model, begun, min(vocabulary.end_tokens), settings.max_new_tokens)
    repeat = torch.arange(len(prompts), device=device).repeat_interleave(samples)
    cache.select(repeat)
    logits_BV = logits_PV[repeat]
    mask, lengths = mask_PL[repeat], mask_PL.sum(-1)[repeat]
    begins = [None] * len(prompts) if openings is None else openings
    rows = [begin_row(vocabulary, tries[i // samples], settings, begins[i // samples]) for i in range(len(repeat))]
    # Strictly below 1, so that rounding cannot carry a draw past the last token with any probability.
    noise = torch.rand(len(rows), settings.max_new_tokens, generator=generator, dtype=torch.float64)
    noise = noise.clamp(max=1 - 2**-50).to(device)
    active = list(range(len(rows)))
    for step in range(settings.max_new_tokens):
        writing = [k for k, i in enumerate(active) if rows[i].tokens_left(settings)]
        chosen = choose(logits_BV, [rows[i] for i in active], settings, vocabulary, noise[active, step])
        yield from ((active[k], chosen[k]) for k in writing)
        kept = [k for k in writing if rows[active[k]].tokens_left(settings)]
        if not kept:
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


def prefill(
    model: CausalModel, prompts: Sequence[Sequence[int]], pad: int, new_tokens: int
) -> tuple[InPlaceCache, torch.Tensor, torch.Tensor]:
    """Encode prompts, padded on the left, with room for `new_tokens` more columns.

    Return the cache, the logits (P, V) of the first new token, and the attention mask (P, L).
    """
    width = max(len(p) for p in prompts)
    ids_PL = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask_PL = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    cache = InPlaceCache(model.config.num_hidden_layers, width + new_tokens)
    out = model(
        input_ids=ids_PL,
        attention_mask=mask_PL,
        position_ids=(mask_PL.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache, out.logits[:, -1].float(), mask_PL


def begin_row(
    vocabulary: MarkerVocabulary, trie: CandidateTrie, settings: SamplingSettings, opening: Generation | None = None
) -> Row:
    """Return a row at the beginning of its answer, or at the end of its opening.

    Raises:
        InputError: if the ads that must be shown do not fit into the answer.
    """
    constraint = MarkerConstraint(vocabulary, trie, settings.max_ads, settings.must_show)
    row = Row(constraint)
    if opening is not None:
        for token in opening.token_ids:
            constraint.replay(token)
        constraint.choices[:] = opening.choices
        row = Row(constraint, list(opening.token_ids), opening.logprob)
    if constraint.needed > (left := row.tokens_left(settings)):
        remedy = f"{constraint.needed} tokens are needed for the ads that must be shown, {left} are left: allow more"
        raise InputError("sampling.max_new_tokens", settings.max_new_tokens, remedy)
    return row


def choose(
    logits_BV: torch.Tensor,
    rows: Sequence[Row],
    settings: SamplingSettings,
    vocabulary: MarkerVocabulary,
    noise_B: torch.Tensor,
) -> list[int]:
    """Return the next token of every row, and update the rows. Rows that write no more get padding."""
    chosen = [min(vocabulary.end_tokens)] * len(rows)
    writing = [k for k, row in enumerate(rows) if row.tokens_left(settings)]
    free = [k for k in writing if not rows[k].constraint.inside]
    inside = [(k, rows[k].constraint.allowed()) for k in writing if rows[k].constraint.inside]
    if free:
        logits = logits_BV[free]
        if settings.constrained:
            left = [rows[k].tokens_left(settings) for k in free]
            forbid(logits, [rows[k].constraint for k in free], vocabulary, left)
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
    logits_BV: torch.Tensor,
    constraints: Sequence[MarkerConstraint],
    vocabulary: MarkerVocabulary,
    left_B: Sequence[int],
) -> None:
    """Mask, in place, the tokens that may not follow outside of a marker; `left_B` tokens may still be written."""
    closed_B = [not constraint.may_open(left) for constraint, left in zip(constraints, left_B, strict=True)]
    barred_B = [constraint.barred(left) for constraint, left in zip(constraints, left_B, strict=True)]
    mask_logits(logits_BV, closed_B, barred_B, vocabulary)


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
    if settings.one_segment and token in vocabulary.sentence_ends and not row.constraint.missing:
        row.finished = True


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
