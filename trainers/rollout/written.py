"""What an engine outside of this project wrote, read as an answer of the policy.

Its text is parsed by our markers. Its propensities are computed here, under the distribution that the policy is sampled
from: an engine reports log-probabilities without the constraint, or none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference.constraint import MarkerVocabulary
from inference.policy import Policy
from inference.sampling import SamplingSettings
from inference.scoring import Sampler, free_logprobs, score
from mechanism.markers import marker_body, parse
from mechanism.types import Ad, Context, Generation


@dataclass(frozen=True, slots=True)
class Written:
    """One answer as an engine returned it, in its own opener.

    `tokens` are None where the engine reports no ids, or writes markers in other tokens than the policy. `logprobs`
    (nats, of each token) are the engine's own; None if it has none. `finished`: the model ended the answer itself.
    """

    text: str
    finished: bool
    tokens: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None


def read_answers(
    policy: Policy, settings: SamplingSettings, contexts: Sequence[Context], written: Sequence[Written]
) -> list[Generation | None]:
    """Return the answers with the policy's propensities; None for one that the policy itself cannot write."""
    read = [_generation(policy, context, one) for context, one in zip(contexts, written, strict=True)]
    scores = score(Sampler(policy, settings), contexts, read)
    return [
        replace(generation, logprob=scored.logprob, choices=scored.choices) if math.isfinite(scored.logprob) else None
        for generation, scored in zip(read, scores, strict=True)
    ]


def _generation(policy: Policy, context: Context, written: Written) -> Generation:
    ads = [c.ad for c in context.candidates]
    tokens = written.tokens
    if tokens is None:
        tokens = tuple(answer_tokens(policy.vocabulary, written.text, ads))
    while tokens and tokens[-1] in policy.vocabulary.end_tokens:
        tokens = tokens[:-1]
    return Generation(parse(policy.vocabulary.decode(tokens), ads), tokens, 0.0, (), written.finished)


def answer_tokens(vocabulary: MarkerVocabulary, text: str, ads: Sequence[Ad]) -> list[int]:
    """Return the tokens in which the policy writes a text: markers of candidates along the trie."""
    bodies = sorted(((vocabulary.opener + marker_body(ad), ad) for ad in ads), key=lambda pair: -len(pair[0]))
    tokens: list[int] = []
    begin = at = 0
    while at < len(text):
        ad = next((ad for body, ad in bodies if text.startswith(body, at)), None)
        if ad is None:
            at += 1
            continue
        tokens += [*_up_to_opener(vocabulary, text[begin:at]), *vocabulary.body(ad)]
        begin = at = at + len(vocabulary.opener + marker_body(ad))
    return tokens + (_plain(vocabulary, text[begin:]) if begin < len(text) else [])


def _up_to_opener(vocabulary: MarkerVocabulary, text: str) -> list[int]:
    """Return the tokens of a text and of the opener after it, which many tokenizers write in one token with a blank."""
    tokens = _plain(vocabulary, text + vocabulary.opener)
    if tokens[-1] in vocabulary.openers and vocabulary.openers.isdisjoint(tokens[:-1]):
        return tokens
    return [*(_plain(vocabulary, text) if text else []), vocabulary.mark]


def _plain(vocabulary: MarkerVocabulary, text: str) -> list[int]:
    return [int(i) for i in vocabulary.tokenizer.encode(text, add_special_tokens=False)]


def disagreement(
    policy: Policy, settings: SamplingSettings, contexts: Sequence[Context], written: Sequence[Written]
) -> float | None:
    """Return how far the engine's log-probabilities are from the policy's, in nats a token on average.

    Only tokens outside of markers count, where the constraint changes little. Engines report log-probabilities before
    the temperature or after it: the closer of the two counts. None if the engine reports none.
    """
    gaps: dict[float, list[float]] = {1.0: [], settings.temperature or 1.0: []}
    for context, one in zip(contexts, written, strict=True):
        if one.tokens is None or one.logprobs is None:
            continue
        for temperature, found in gaps.items():
            own = free_logprobs(policy, context, one.tokens, temperature)
            found += [abs(own[at] - one.logprobs[at]) for at in own if math.isfinite(one.logprobs[at])]
    means = [math.fsum(found) / len(found) for found in gaps.values() if found]
    return min(means) if means else None
