"""Answers that were not sampled: one with another ad in a marker, or without an ad's sentence.

They differ from an answer that the policy writes in one decision about ads, which sampled answers to one context hardly
ever do, and they cost no sampling: the click predictor scores them like the others. Their tokens are those that the
decoder would write, so they have a probability under the policy and can win or lose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from inference.constraint import MarkerConstraint, MarkerVocabulary
from inference.policy import Policy
from inference.sampling import SamplingSettings
from mechanism.markers import parse
from mechanism.prose import SENTENCE_BREAK
from mechanism.types import AdId, Context, Generation
from trainers.artifacts.sampled import Sampled
from trainers.config import PreferenceConfig
from trainers.optimisation.restrictions import restrictions_of

ATTEMPTS = 4
"""Draws for each edit that is asked for: some answers have no ad, and some edits give an answer that exists already."""

Edit = Callable[[MarkerVocabulary, Context, tuple[int, ...], np.random.Generator], tuple[int, ...] | None]
"""(vocabulary, context, tokens, rng) -> the edited tokens, or None where the answer cannot be edited this way."""


@dataclass(frozen=True, slots=True)
class Marker:
    """An ad's marker in an answer's tokens: its body is `tokens[start:end]`, the token before opens it."""

    ad: AdId
    start: int
    end: int


def with_edits(
    sampled: Sampled,
    policy: Policy,
    settings: SamplingSettings,
    config: PreferenceConfig,
    rng: np.random.Generator,
) -> Sampled:
    """Return the context's answers and, after them, the edits of `config.edited` of them, those with ads first.

    `settings` are those that the answers were sampled with; an edit that they do not allow (too long) is left out.
    Without the marker constraint nothing is edited: such answers hold markers that cannot be replayed.
    """
    if not (config.edited and settings.constrained):
        return sampled
    allowed = [g for g in sampled.generations if restrictions_of(policy, sampled.context, g, settings) is not None]
    known = {g.token_ids for g in sampled.generations}
    kinds: tuple[tuple[Edit, int], ...] = ((swap_ad, config.swaps), (remove_ad, config.removals))
    added: list[Generation] = []
    order = sorted((allowed[int(m)] for m in rng.permutation(len(allowed))), key=lambda g: not g.answer.shown())
    for source in order[: config.edited]:
        for edit, count in kinds:
            wanted = len(added) + count
            for _ in range(ATTEMPTS * count):
                if len(added) == wanted:
                    break
                tokens = edit(policy.vocabulary, sampled.context, source.token_ids, rng)
                if tokens is None or tokens in known:
                    continue
                edited = _generation(policy.vocabulary, sampled.context, tokens, source.finished)
                if not edited.answer.faults and restrictions_of(policy, sampled.context, edited, settings) is not None:
                    known.add(tokens)
                    added.append(edited)
    return replace(sampled, generations=(*sampled.generations, *added)) if added else sampled


def swap_ad(
    vocabulary: MarkerVocabulary, context: Context, tokens: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """Put another candidate, which the answer does not show, into one of its markers; the words stay."""
    markers = markers_of(vocabulary, context, tokens)
    shown = {m.ad for m in markers}
    others = [c.ad for c in context.candidates if c.ad.id not in shown]
    if not markers or not others:
        return None
    marker, other = markers[rng.integers(len(markers))], others[rng.integers(len(others))]
    return (*tokens[: marker.start], *vocabulary.body(other), *tokens[marker.end :])


def remove_ad(
    vocabulary: MarkerVocabulary, context: Context, tokens: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """Remove one sentence that carries an ad, with all ads in it."""
    carrying = carrying_sentences(vocabulary, context, tokens)
    if not carrying:
        return None
    start, end = carrying[rng.integers(len(carrying))]
    return (*tokens[:start], *tokens[end:])


def carrying_sentences(
    vocabulary: MarkerVocabulary, context: Context, tokens: tuple[int, ...]
) -> list[tuple[int, int]]:
    """Return the spans (start, end) of the sentences with ads, the blank before each included.

    A sentence that opens the answer is not among them: its tokens begin otherwise than later ones.
    """
    markers = markers_of(vocabulary, context, tokens)
    spans = pairwise([*sentence_cuts(vocabulary, tokens, markers), len(tokens)])
    return [(start, end) for start, end in spans if any(start < m.start < end for m in markers)]


def markers_of(vocabulary: MarkerVocabulary, context: Context, tokens: Sequence[int]) -> list[Marker]:
    """Return the complete markers of an answer that was written under the constraint."""
    constraint = MarkerConstraint(vocabulary, vocabulary.trie([c.ad for c in context.candidates]), None)
    markers: list[Marker] = []
    start = 0
    for position, token in enumerate(tokens):
        inside = constraint.inside
        constraint.advance(token)
        if constraint.inside and not inside:
            start = position + 1
        elif inside and not constraint.inside:
            markers.append(Marker(constraint.choices[-1].chosen, start, position + 1))
    return markers


def sentence_cuts(vocabulary: MarkerVocabulary, tokens: Sequence[int], markers: Sequence[Marker]) -> list[int]:
    """Return the numbers of the tokens that begin a sentence, but for the first; a title holds no sentence end.

    A sentence begins with the blank before it where that is a token of its own or a part of its first word. Where one
    token holds the end of a sentence and the beginning of the next, the two count as one.
    """
    ends = [len(vocabulary.decode(tokens[:n])) for n in range(len(tokens) + 1)]
    token_at = {end: n for n, end in reversed(list(enumerate(ends)))}
    cuts: list[int] = []
    for gap in SENTENCE_BREAK.finditer(vocabulary.decode(tokens)):
        cut = token_at.get(gap.start(), token_at.get(gap.end()))
        if cut is not None and 0 < cut < len(tokens) and not any(m.start <= cut < m.end for m in markers):
            cuts.append(cut)
    return cuts


def _generation(vocabulary: MarkerVocabulary, context: Context, tokens: tuple[int, ...], finished: bool) -> Generation:
    """Return an edited answer; nothing sampled it, so its log-probability as sampled is not a number."""
    answer = parse(vocabulary.decode(tokens), [c.ad for c in context.candidates])
    return Generation(answer, tokens, math.nan, finished=finished)
