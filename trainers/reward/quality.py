"""Quality of an answer apart from its ads: whether it is on topic, complete and free of loops.

A rule on the frozen text encoder's cosines, for comparing methods under one base model; it does not check facts, and
grades by a judge model are left to `judge`. The encoder is a parameter, so no torch is needed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mechanism.prose import runs
from mechanism.types import Answer
from trainers.reward.features import sentences

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
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Sentences:
    """An answer's sentences: `own` carry no ad; `carriers` do, with "it" in place of the ads' titles."""

    own: tuple[str, ...]
    carriers: tuple[str, ...]

    @classmethod
    def of(cls, answer: Answer) -> Sentences:
        """Split an answer as the click predictor reads it, so that each sentence is encoded once for both."""
        own: list[str] = []
        carriers: list[str] = []
        for start, end in sentences(answer):
            text = answer.struck(start, end)
            if _WORD.search(text):
                carries = any(i.start < end and start < i.end for i in answer.insertions)
                (carriers if carries else own).append(text)
        return cls(tuple(own), tuple(carriers))


def repetition_factor(text: str) -> float:
    """Return 1 for ordinary prose, falling towards 0 with the share of repeated three-word runs.

    It detects a repeated sentence as well as a loop that never ends its sentence.
    """
    every = runs(text)
    return min(1.0, len(set(every)) / len(every) / LOOP_ALLOWANCE) if every else 1.0


def answer_qualities(items: Sequence[tuple[str, Answer, bool]], encode: Encode) -> list[float]:
    """Score the quality 0..1 of each (query text, answer, finished), with one call of `encode` for all.

    quality = topic * completeness * repetition, and 0 for an answer without words.
    topic: cosine with the query of the sentences without ads, on the ramp TOPIC_RANGE, averaged by their words. Ad
    sentences on topic neither help nor harm an answer with other sentences; an answer of ad sentences alone has their
    topic times AD_SENTENCES.
    completeness: 1 if finished, else UNFINISHED. repetition: `repetition_factor` of the whole text without titles.
    """
    split = [Sentences.of(answer) for _, answer, _ in items]
    groups = [part for s in split for part in (s.own, s.carriers)]
    texts = [query for query, _, _ in items] + [text for group in groups for text in group]
    if not texts:
        return []
    vectors = np.asarray(encode(texts), dtype=np.float64)
    at = len(items)
    scores = []
    for k, (_, _, finished) in enumerate(items):
        topics = []
        for group in groups[2 * k : 2 * k + 2]:
            topics.append(_topic(vectors[k], vectors[at : at + len(group)], group))
            at += len(group)
        own, carriers = topics
        everything = " ".join([*split[k].own, *split[k].carriers])
        factor = (1.0 if finished else UNFINISHED) * repetition_factor(everything)
        scores.append(float(max(own, AD_SENTENCES * carriers) * factor))
    return scores


def _topic(query: NDArray[np.float64], vectors: NDArray[np.float64], texts: Sequence[str]) -> float:
    if not texts:
        return 0.0
    low, high = TOPIC_RANGE
    ramp = np.clip((vectors @ query - low) / (high - low), 0.0, 1.0)
    return float(np.average(ramp, weights=[len(text.split()) for text in texts]))
