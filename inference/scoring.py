"""The probability of a given answer under a policy as it is sampled: the inverse of `inference.sampling`.

One forward pass over prompt and answer, under the same constraint, temperature and truncation. Two samplers on one
answer give the importance weights of off-policy evaluation, which `trainers.gates` uses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from inference.constraint import MarkerConstraint
from inference.policy import Policy
from inference.sampling import SamplingSettings, column_probabilities, mask_logits
from mechanism.errors import InputError
from mechanism.types import Context, Generation, MarkerChoice

CELLS_AT_ONCE = 2**24
"""Probabilities (answer tokens * vocabulary) of one forward pass: 128 MiB in float64."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A policy with its sampling settings: together they are one distribution over answers."""

    policy: Policy
    settings: SamplingSettings


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer under one sampler.

    `logprob` (nats) is that of the whole answer, as in `Generation.logprob`; it is -inf if the sampler cannot write the
    answer. `ads_logprob` is that of the ad decisions alone, given the words: at each token whether a marker opens, and
    which ad it names. `choices` are the propensities at the markers.
    """

    logprob: float
    ads_logprob: float
    choices: tuple[MarkerChoice, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """One logged answer under the sampler that wrote it, and under another one, the target.

    `unsupported` sums, along the answer, the target's probability of tokens that the logging sampler never draws
    (truncation, a lower `max_ads` or `max_new_tokens`), each weighted by the importance ratio up to that token. The
    mean over logged answers estimates 1 - E[weight], the share of the target's answers that the log cannot evaluate.
    `ads_unsupported` is the same for the ad decisions.
    """

    logged: Scored
    target: Scored
    unsupported: float
    ads_unsupported: float


@dataclass(frozen=True, slots=True)
class _Step:
    """One token of an answer, with the constraint under which it is chosen.

    Inside a marker `allowed` are the tokens of the trie. Outside it is empty; then `closed` is True if no marker may
    open, and `barred` are further forbidden tokens.
    """

    token: int
    allowed: tuple[int, ...] = ()
    closed: bool = False
    barred: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Path:
    """The steps of an answer, up to the first that the sampler cannot take; `whole` if it can take all of them."""

    steps: tuple[_Step, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class _PathProbabilities:
    """Probabilities along a path of T steps.

    `words_FV` are those of the F steps outside of markers, in order, over the vocabulary, and `forks` those of the
    steps inside, over the allowed tokens. `chosen_T` are the probabilities of the answer's tokens, `ads_T` of their ad
    decisions.
    """

    path: _Path
    words_FV: torch.Tensor
    forks: tuple[tuple[float, ...], ...]
    chosen_T: tuple[float, ...]
    ads_T: tuple[float, ...]


def score(sampler: Sampler, contexts: Sequence[Context], answers: Sequence[Generation]) -> list[Scored]:
    """Score each answer to the context at the same position under `sampler`, which need not have written it.

    The end of an answer has the probability of all end tokens together, because a Generation does not record which one
    it was. Settings without the marker constraint are an InputError, because such a policy has no propensities.
    """
    scored: list[Scored | None] = [None] * len(answers)
    for rows in _batches(sampler.policy, contexts, answers):
        batch = _probabilities(sampler, [contexts[i] for i in rows], [answers[i] for i in rows])
        for i, probabilities in zip(rows, batch, strict=True):
            scored[i] = _scored(sampler, contexts[i], probabilities)
    return [s for s in scored if s is not None]


def compare(
    logging: Sampler, target: Sampler, contexts: Sequence[Context], answers: Sequence[Generation]
) -> list[Compared]:
    """Score each logged answer under both samplers, as in `score`.

    Raises:
        InputError: if the samplers have different tokenizers.
    """
    tokenizers = [(s.policy.vocabulary.size, s.policy.tokenizer.get_vocab()) for s in (logging, target)]
    if tokenizers[0] != tokenizers[1]:
        remedy = "answers are compared token by token: evaluate models of one tokenizer"
        raise InputError("tokenizers of the logging and the target policy", "different", remedy)
    compared: list[Compared | None] = [None] * len(answers)
    for rows in _batches(logging.policy, contexts, answers):
        batch = [contexts[i] for i in rows], [answers[i] for i in rows]
        pairs = zip(_probabilities(logging, *batch), _probabilities(target, *batch), strict=True)
        for i, (logged, targeted) in zip(rows, pairs, strict=True):
            own, other = _scored(logging, contexts[i], logged), _scored(target, contexts[i], targeted)
            compared[i] = Compared(own, other, *_unsupported(logging.policy, logged, targeted))
    return [c for c in compared if c is not None]


@torch.inference_mode()
def free_logprobs(
    policy: Policy, context: Context, tokens: Sequence[int], temperature: float = 1.0
) -> dict[int, float]:
    """Return the log-probabilities (nats) of an answer's tokens outside of markers, by their place, unconstrained."""
    prompt = policy.prompt_ids(context)
    ids = torch.tensor([[*prompt, *tokens]], device=policy.model.device)
    logits_TV = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float() / temperature
    chosen = torch.tensor(list(tokens), device=logits_TV.device)
    found = logits_TV.log_softmax(-1).gather(1, chosen[:, None])[:, 0].tolist()
    constraint = MarkerConstraint(policy.vocabulary, policy.vocabulary.trie([c.ad for c in context.candidates]), None)
    free: dict[int, float] = {}
    for at, token in enumerate(tokens):
        if not constraint.inside:
            free[at] = found[at]
        constraint.replay(token)
    return free


def _batches(policy: Policy, contexts: Sequence[Context], answers: Sequence[Generation]) -> Iterator[list[int]]:
    """Yield the indices of answers of similar length to encode together.

    Raises:
        InputError: if there is not one context for each answer.
    """
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
    """Replay the constraint over an answer."""
    vocabulary, settings = sampler.policy.vocabulary, sampler.settings
    trie = vocabulary.trie([c.ad for c in context.candidates])
    constraint = MarkerConstraint(vocabulary, trie, settings.max_ads, settings.must_show)
    steps: list[_Step] = []
    for number, token in enumerate(sampler.policy.answer_ids(generation)):
        left = settings.max_new_tokens - number
        if left < 1:
            return _Path(tuple(steps), whole=False)
        if constraint.inside:
            allowed = tuple(constraint.allowed())
            if token not in allowed:
                return _Path(tuple(steps), whole=False)
            steps.append(_Step(token, allowed))
        else:
            closed = not constraint.may_open(left)
            steps.append(_Step(token, (), closed, constraint.barred(left)))
            if closed and token in vocabulary.openers:
                return _Path(tuple(steps), whole=False)
        if token not in vocabulary.end_tokens:
            constraint.advance(token)
    # An answer that neither ended nor used its whole budget would have continued.
    return _Path(tuple(steps), generation.finished or len(steps) == settings.max_new_tokens)


@torch.inference_mode()
def _probabilities(
    sampler: Sampler, contexts: Sequence[Context], answers: Sequence[Generation]
) -> list[_PathProbabilities]:
    policy, settings = sampler.policy, sampler.settings
    if not settings.constrained:
        remedy = "only answers written under the marker constraint have propensities"
        raise InputError("sampling.constrained", settings.constrained, remedy)
    device, vocabulary = policy.model.device, policy.vocabulary
    paths = [_path(sampler, c, g) for c, g in zip(contexts, answers, strict=True)]
    prompts = [policy.prompt_ids(c) for c in contexts]
    written = [prompt + [step.token for step in path.steps] for prompt, path in zip(prompts, paths, strict=True)]
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
        logits_TV = policy.model.get_output_embeddings()(hidden_BLD[row, begin : begin + len(path.steps)]).float()
        free = [t for t, step in enumerate(path.steps) if not step.allowed]
        words = [path.steps[t] for t in free]
        logits_FV = logits_TV[free]
        mask_logits(logits_FV, [step.closed for step in words], [step.barred for step in words], vocabulary)
        words_FV = column_probabilities(logits_FV, settings).cpu().double()
        open_F, word_F = (words_FV * opener_V).sum(-1).tolist(), (words_FV * (1.0 - opener_V)).sum(-1).tolist()
        ended_F = words_FV[:, ends].sum(-1).tolist()
        forks: list[tuple[float, ...]] = []
        chosen: list[float] = []
        ads: list[float] = []
        for t, step in enumerate(path.steps):
            if step.allowed:
                scores = logits_TV[t, list(step.allowed)].cpu().double()
                forks.append(tuple(column_probabilities(scores[None], settings)[0].tolist()))
                chosen.append(forks[-1][step.allowed.index(step.token)])
                ads.append(chosen[-1])
                continue
            f = t - len(forks)
            chosen.append(ended_F[f] if step.token in vocabulary.end_tokens else float(words_FV[f, step.token]))
            ads.append(open_F[f] if step.token in vocabulary.openers else word_F[f])
        found.append(_PathProbabilities(path, words_FV, tuple(forks), tuple(chosen), tuple(ads)))
    return found


def _scored(sampler: Sampler, context: Context, probabilities: _PathProbabilities) -> Scored:
    if not probabilities.path.whole:
        return Scored(-math.inf, -math.inf, ())
    vocabulary = sampler.policy.vocabulary
    trie = vocabulary.trie([c.ad for c in context.candidates])
    constraint, forks = MarkerConstraint(vocabulary, trie, sampler.settings.max_ads), iter(probabilities.forks)
    for step in probabilities.path.steps:
        if step.token not in vocabulary.end_tokens:
            fork = dict(zip(step.allowed, next(forks), strict=True)) if step.allowed else None
            constraint.advance(step.token, fork)
    return Scored(_log_product(probabilities.chosen_T), _log_product(probabilities.ads_T), tuple(constraint.choices))


def _log_product(factors: Sequence[float]) -> float:
    return math.fsum(map(math.log, factors)) if all(factors) else -math.inf


def _unsupported(policy: Policy, logged: _PathProbabilities, target: _PathProbabilities) -> tuple[float, float]:
    """Return `unsupported` and `ads_unsupported` of Compared."""
    openers = sorted(policy.vocabulary.openers)
    lost, ads_lost, ratio, ads_ratio, forks = 0.0, 0.0, 1.0, 1.0, 0
    for t in range(min(len(logged.chosen_T), len(target.chosen_T))):
        if logged.path.steps[t].allowed:
            pairs = zip(logged.forks[forks], target.forks[forks], strict=True)
            missing = ads_missing = math.fsum(p for own, p in pairs if own == 0.0)
            forks += 1
        else:
            own_V, other_V = logged.words_FV[t - forks], target.words_FV[t - forks]
            missing = float(other_V[own_V == 0.0].sum())
            target_opens, logged_opens = float(other_V[openers].sum()), float(own_V[openers].sum())
            ads_missing = target_opens if logged_opens == 0.0 else 1.0 - target_opens if logged_opens >= 1.0 else 0.0
        lost, ads_lost = lost + ratio * missing, ads_lost + ads_ratio * ads_missing
        # Rounding at the edge of a truncation may cut off a token that was drawn: its path ends there.
        ratio *= target.chosen_T[t] / logged.chosen_T[t] if logged.chosen_T[t] else 0.0
        ads_ratio *= target.ads_T[t] / logged.ads_T[t] if logged.ads_T[t] else 0.0
    # An answer cut off at the logging policy's budget says nothing about a target that may write longer answers.
    cut = logged.path.whole and not target.path.whole and len(target.chosen_T) == len(logged.chosen_T)
    return (lost + ratio, ads_lost + ads_ratio) if cut else (lost, ads_lost)
