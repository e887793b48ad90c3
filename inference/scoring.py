"""How likely a policy, as it is sampled, was to write an answer that exists already: `inference.sampling` inverted.

One forward pass over prompt and answer under the same constraint, temperature and truncation; nothing is drawn. Two
samplers compared on one answer give the importance weights of off-policy evaluation; what to do with them is left to
`trainers.gates`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from inference.constraint import MarkerConstraint
from inference.policy import Policy
from inference.sampling import SamplingSettings, column_probabilities, strike
from mechanism.errors import InputError
from mechanism.types import Context, Generation, MarkerChoice

CELLS_AT_ONCE = 2**24
"""Probabilities (answer tokens x vocabulary) that one forward pass may leave in memory, 128 MiB in float64."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A policy with the settings that its answers are drawn under: together they are one distribution over answers."""

    policy: Policy
    settings: SamplingSettings


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer under one sampler. `logprob` (nats) is that of the whole answer, as `Generation.logprob` records it;
    -inf: it cannot be written. `ads_logprob` counts the ad decisions alone, the words taken as given: at each token
    whether a marker opens, and which ad it names. `choices` are the propensities at its markers."""

    logprob: float
    ads_logprob: float
    choices: tuple[MarkerChoice, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One logged answer under the sampler that wrote it and under another one, the target.

    `unsupported` is the part of the target's probability that this answer's path says is lost on tokens which the
    logging sampler never draws (truncation, a lower `max_ads` or `max_new_tokens`), each step's loss weighted by the
    importance ratio up to there: its mean over logged answers estimates 1 - E[weight], the share of the target's
    answers of which the log can say nothing. `ads_unsupported` is the same for the ad decisions.
    """

    logged: Scored
    target: Scored
    unsupported: float
    ads_unsupported: float


@dataclass(frozen=True, slots=True)
class _Moment:
    """One token of an answer before it is chosen. Inside a marker `allowed` holds what the trie offers, outside
    (empty) whether a marker may open and which tokens are barred."""

    token: int
    allowed: tuple[int, ...] = ()
    closed: bool = False
    barred: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Path:
    """The moments of an answer as far as the sampler can follow it; `whole` False where it could not to the end."""

    moments: tuple[_Moment, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class _Steps:
    """Probabilities along a path of T moments. `words_FV`: the F moments outside markers, in order, over the
    vocabulary; `forks`: those inside, over the allowed tokens. `chosen_T`: of the token itself; `ads_T`: of its ad
    decision."""

    path: _Path
    words_FV: torch.Tensor
    forks: tuple[tuple[float, ...], ...]
    chosen_T: tuple[float, ...]
    ads_T: tuple[float, ...]


def score(sampler: Sampler, contexts: Sequence[Context], answers: Sequence[Generation]) -> list[Scored]:
    """Every answer, of the context at the same place, under `sampler`. The answers need not be its own.

    The end of an answer counts as all end tokens together, because a Generation does not say which one it was. Raises
    InputError for settings without the marker constraint: such a policy has no propensities.
    """
    scored: list[Scored | None] = [None] * len(answers)
    for rows in _batches(sampler.policy, contexts, answers):
        own = _steps(sampler, [contexts[i] for i in rows], [answers[i] for i in rows])
        for i, steps in zip(rows, own, strict=True):
            scored[i] = _scored(sampler, contexts[i], steps)
    return [s for s in scored if s is not None]


def compare(
    logging: Sampler, target: Sampler, contexts: Sequence[Context], answers: Sequence[Generation]
) -> list[Compared]:
    """Every logged answer under both samplers, which must share their tokenizer (InputError), as in `score`."""
    names = [(s.policy.vocabulary.size, s.policy.tokenizer.get_vocab()) for s in (logging, target)]
    if names[0] != names[1]:
        remedy = "answers are compared token by token: evaluate models of one tokenizer"
        raise InputError("tokenizers of the logging and the target policy", "not the same", remedy)
    compared: list[Compared | None] = [None] * len(answers)
    for rows in _batches(logging.policy, contexts, answers):
        some, written = [contexts[i] for i in rows], [answers[i] for i in rows]
        pairs = zip(_steps(logging, some, written), _steps(target, some, written), strict=True)
        for i, (before, after) in zip(rows, pairs, strict=True):
            own, other = _scored(logging, contexts[i], before), _scored(target, contexts[i], after)
            compared[i] = Compared(own, other, *_unsupported(logging.policy, before, after))
    return [c for c in compared if c is not None]


def _batches(policy: Policy, contexts: Sequence[Context], answers: Sequence[Generation]) -> Iterator[list[int]]:
    """Numbers of answers to encode together, of like length."""
    if len(contexts) != len(answers):
        raise InputError("contexts", len(contexts), f"give one for each of the {len(answers)} answers")
    budget = max(1, CELLS_AT_ONCE // policy.vocabulary.size)
    rows: list[int] = []
    for i in sorted(range(len(answers)), key=lambda i: len(answers[i].token_ids)):
        if rows and (len(rows) + 1) * (len(answers[i].token_ids) + 1) > budget:
            yield rows
            rows = []
        rows.append(i)
    if rows:
        yield rows


def _path(sampler: Sampler, context: Context, generation: Generation) -> _Path:
    """Replays the constraint over an answer."""
    vocabulary, settings = sampler.policy.vocabulary, sampler.settings
    constraint = MarkerConstraint(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), settings.max_ads)
    moments: list[_Moment] = []
    for number, token in enumerate(sampler.policy.answer_ids(generation)):
        left = settings.max_new_tokens - number
        if left < 1:
            return _Path(tuple(moments), whole=False)
        if constraint.inside:
            allowed = tuple(constraint.allowed())
            if token not in allowed:
                return _Path(tuple(moments), whole=False)
            moments.append(_Moment(token, allowed))
        else:
            closed = not constraint.may_open(left)
            moments.append(_Moment(token, (), closed, constraint.barred()))
            if closed and token in vocabulary.openers:
                return _Path(tuple(moments), whole=False)
        if token not in vocabulary.end_tokens:
            constraint.advance(token)
    # an answer that neither ended nor filled the budget would have gone on
    return _Path(tuple(moments), generation.finished or len(moments) == settings.max_new_tokens)


@torch.inference_mode()
def _steps(sampler: Sampler, contexts: Sequence[Context], answers: Sequence[Generation]) -> list[_Steps]:
    policy, settings = sampler.policy, sampler.settings
    if not settings.constrained:
        remedy = "only answers written under the marker constraint have propensities"
        raise InputError("sampling.constrained", settings.constrained, remedy)
    device, vocabulary = policy.model.device, policy.vocabulary
    paths = [_path(sampler, c, g) for c, g in zip(contexts, answers, strict=True)]
    prompts = [policy.prompt_ids(c) for c in contexts]
    written = [prompt + [m.token for m in path.moments] for prompt, path in zip(prompts, paths, strict=True)]
    width = max(len(ids) for ids in written)
    ids_BL = torch.tensor([ids + [min(vocabulary.end_tokens)] * (width - len(ids)) for ids in written], device=device)
    mask_BL = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in written], device=device)
    hidden_BLD = policy.model.base_model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
    ends = torch.tensor(sorted(vocabulary.end_tokens))
    opener_V = torch.zeros(vocabulary.size, dtype=torch.float64)
    opener_V[sorted(vocabulary.openers)] = 1.0
    found = []
    for row, path in enumerate(paths):
        begin = len(prompts[row]) - 1
        logits_TV = policy.model.get_output_embeddings()(hidden_BLD[row, begin : begin + len(path.moments)]).float()
        free = [t for t, m in enumerate(path.moments) if not m.allowed]
        words = [path.moments[t] for t in free]
        logits_FV = logits_TV[free]
        strike(logits_FV, [m.closed for m in words], [m.barred for m in words], vocabulary)
        words_FV = column_probabilities(logits_FV, settings).cpu().double()
        open_F, word_F = (words_FV * opener_V).sum(-1).tolist(), (words_FV * (1.0 - opener_V)).sum(-1).tolist()
        ended_F = words_FV[:, ends].sum(-1).tolist()
        forks: list[tuple[float, ...]] = []
        chosen: list[float] = []
        ads: list[float] = []
        for t, moment in enumerate(path.moments):
            if moment.allowed:
                scores = logits_TV[t, list(moment.allowed)].cpu().double()
                forks.append(tuple(column_probabilities(scores[None], settings)[0].tolist()))
                chosen.append(forks[-1][moment.allowed.index(moment.token)])
                ads.append(chosen[-1])
                continue
            f = t - len(forks)
            chosen.append(ended_F[f] if moment.token in vocabulary.end_tokens else float(words_FV[f, moment.token]))
            ads.append(open_F[f] if moment.token in vocabulary.openers else word_F[f])
        found.append(_Steps(path, words_FV, tuple(forks), tuple(chosen), tuple(ads)))
    return found


def _scored(sampler: Sampler, context: Context, steps: _Steps) -> Scored:
    if not steps.path.whole:
        return Scored(-math.inf, -math.inf, ())
    vocabulary = sampler.policy.vocabulary
    trie = vocabulary.trie([c.ad for c in context.candidates])
    constraint, forks = MarkerConstraint(vocabulary, trie, sampler.settings.max_ads), iter(steps.forks)
    for moment in steps.path.moments:
        if moment.token not in vocabulary.end_tokens:
            fork = dict(zip(moment.allowed, next(forks), strict=True)) if moment.allowed else None
            constraint.advance(moment.token, fork)
    return Scored(_log_product(steps.chosen_T), _log_product(steps.ads_T), tuple(constraint.choices))


def _log_product(factors: Sequence[float]) -> float:
    return math.fsum(map(math.log, factors)) if all(factors) else -math.inf


def _unsupported(policy: Policy, logged: _Steps, target: _Steps) -> tuple[float, float]:
    """`unsupported` and `ads_unsupported` of Compared."""
    openers = sorted(policy.vocabulary.openers)
    lost, ads_lost, ratio, ads_ratio, forks = 0.0, 0.0, 1.0, 1.0, 0
    for t in range(min(len(logged.chosen_T), len(target.chosen_T))):
        if logged.path.moments[t].allowed:
            pairs = zip(logged.forks[forks], target.forks[forks], strict=True)
            missing = ads_missing = math.fsum(p for own, p in pairs if own == 0.0)
            forks += 1
        else:
            own_V, other_V = logged.words_FV[t - forks], target.words_FV[t - forks]
            missing = float(other_V[own_V == 0.0].sum())
            opens, opened = float(other_V[openers].sum()), float(own_V[openers].sum())
            ads_missing = opens if opened == 0.0 else 1.0 - opens if opened >= 1.0 else 0.0
        lost, ads_lost = lost + ratio * missing, ads_lost + ads_ratio * ads_missing
        # rounding may cut off, at the edge of a truncation, a token that was drawn: its path ends there
        ratio *= target.chosen_T[t] / logged.chosen_T[t] if logged.chosen_T[t] else 0.0
        ads_ratio *= target.ads_T[t] / logged.ads_T[t] if logged.ads_T[t] else 0.0
    # where the target may write on, an answer cut off at the logging policy's budget tells nothing of what it would
    cut = logged.path.whole and not target.path.whole and len(target.chosen_T) == len(logged.chosen_T)
    return (lost + ratio, ads_lost + ads_ratio) if cut else (lost, ads_lost)
