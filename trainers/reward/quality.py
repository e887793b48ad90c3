"""Quality of an answer apart from its ads: whether it is on topic, complete and free of loops.

A rule on the frozen text encoder's cosines, for comparing methods under one base model; it does not check facts, and
grades by a judge model are left to `judge`. The encoder is a parameter, so no torch is needed here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mechanism.prose import SENTENCE_BREAK, runs
from mechanism.types import Answer

Encode = Callable[[list[str]], NDArray[np.float32]]
"""Texts to unit vectors (texts, width); a dot product is a cosine."""

TOPIC_RANGE: Final = (0.10, 0.70)
"""Cosines with the query that are mapped linearly onto 0..1: text on something else
lies near 0.05, a piece of advice near 0.5, an answer that names what was asked about near 0.7."""
AD_SENTENCES: Final = 0.25
"""Highest quality of an answer that consists of ad-carrying sentences alone."""
UNFINISHED: Final = 0.6
"""Factor for an answer that was cut off at the length limit."""
LOOP_ALLOWANCE: Final = 0.9
"""Share of distinct three-word runs from which a text counts as free of repetition; ordinary prose lies above it."""
PASSAGE_WORDS: Final = 60
"""Longest passage that is encoded at once; a sentence encoder reads no more than about a hundred words."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Sentences:
    """An answer's sentences: `own` carry no ad; `carriers` do, and have the ads' titles struck out."""

    own: tuple[str, ...]
    carriers: tuple[str, ...]


def split_sentences(answer: Answer) -> Sentences:
    """Split an answer at ".", "!" or "?" before a blank and at line ends, but never inside an ad's title."""
    text, spans = answer.text, [(i.start, i.end) for i in answer.insertions]
    edges = [0]
    for match in SENTENCE_BREAK.finditer(text):
        if not any(start < match.end() and match.start() < end for start, end in spans):
            edges.append(match.end())
    edges.append(len(text))
    own: list[str] = []
    carriers: list[str] = []
    for left, right in itertools.pairwise(edges):
        inside = [(s, e) for s, e in spans if left <= s < right]
        struck = text[left:right]
        for start, end in sorted(inside, reverse=True):
            struck = struck[: start - left] + struck[end - left :]
        if _WORD.search(struck):
            (carriers if inside else own).append(" ".join(struck.split()))
    return Sentences(tuple(own), tuple(carriers))


def passages(sentences: Sequence[str]) -> list[str]:
    """Join neighbouring sentences up to PASSAGE_WORDS words; a longer sentence stands alone."""
    joined: list[str] = []
    words = 0
    for sentence in sentences:
        count = len(sentence.split())
        if joined and words + count <= PASSAGE_WORDS:
            joined[-1] += " " + sentence
            words += count
        else:
            joined.append(sentence)
            words = count
    return joined


def repetition_factor(text: str) -> float:
    """Return 1 for ordinary prose, falling towards 0 with the share of repeated three-word runs.

    It detects a repeated sentence as well as a loop that never ends its sentence.
    """
    every = runs(text)
    return min(1.0, len(set(every)) / len(every) / LOOP_ALLOWANCE) if every else 1.0


def answer_qualities(items: Sequence[tuple[str, Answer, bool]], encode: Encode) -> list[float]:
    """Score the quality 0..1 of each (query text, answer, finished), with one call of `encode` for all.

    quality = topic * completeness * repetition, and 0 for an answer without words.
    topic: cosine with the query of the sentences without ads, on the ramp TOPIC_RANGE, averaged over passages by their
    words. Ad sentences neither help nor harm an answer with other sentences; an answer of ad sentences alone has their
    topic times AD_SENTENCES.
    completeness: 1 if finished, else UNFINISHED. repetition: `repetition_factor` of the whole text without titles.
    """
    split = [split_sentences(answer) for _, answer, _ in items]
    groups = [passages(s.own or s.carriers) for s in split]
    texts = [query for query, _, _ in items] + [text for group in groups for text in group]
    if not texts:
        return []
    vectors = np.asarray(encode(texts), dtype=np.float64)
    at = len(items)
    scores = []
    for k, (_, _, finished) in enumerate(items):
        topic = _topic(vectors[k], vectors[at : at + len(groups[k])], groups[k])
        at += len(groups[k])
        worth = 1.0 if split[k].own else AD_SENTENCES
        everything = " ".join(split[k].own + split[k].carriers)
        factor = (1.0 if finished else UNFINISHED) * repetition_factor(everything)
        scores.append(float(worth * topic * factor))
    return scores


def _topic(query: NDArray[np.float64], vectors: NDArray[np.float64], texts: Sequence[str]) -> float:
    if not texts:
        return 0.0
    low, high = TOPIC_RANGE
    ramp = np.clip((vectors @ query - low) / (high - low), 0.0, 1.0)
    return float(np.average(ramp, weights=[len(text.split()) for text in texts]))
