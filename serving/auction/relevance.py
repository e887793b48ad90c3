"""The relevance floor: which candidates are close enough to the conversation, and whether it has a need at all.

"Who was Napoleon?" and "hello" get no candidates. Two bars decide: the conversation must sound like a need (a linear
classifier on its vector, fitted to English questions with and without one), and each candidate must be near to it.
Where no vector is known, the search by words decides alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.auction.retrieval import Hit
from serving.auction.retrieval.vectors import Vectors
from serving.auction.sensitive.meaning import Meaning
from serving.auction.sensitive.rules import may_be_english

FADE = 0.6
"""Weight of a message's vector relative to the one after it."""
NEARER = 0.1
"""Cosine that is added to the floor in other languages than English."""
BELOW_FLOOR = "relevance:below_floor"
"""The code of a conversation that none of the eligible creatives fits."""


@dataclass(frozen=True, slots=True)
class RelevanceFloor:
    """The least cosine of a candidate to the conversation, and the classifier of needs; a floor of 0 admits all."""

    least: float
    meaning: Meaning | None = None

    def admits(self, message: str, conversation_D: Vectors | None) -> bool:
        """Whether the conversation that ends with `message` sounds like a need; always, where that cannot be known."""
        if self.least <= 0 or conversation_D is None or self.meaning is None or not may_be_english(message):
            return True
        return self.meaning.need(conversation_D) > 0

    def keep(self, message: str, hits: tuple[Hit, ...], conversation_D: Vectors | None) -> tuple[Hit, ...]:
        """Return the hits that are near enough; found by words alone, all of them are.

        Where the classifier of needs cannot read, they have to be nearer.
        """
        if self.least <= 0 or conversation_D is None:
            return hits
        least = self.least if may_be_english(message) else self.least + NEARER
        return tuple(hit for hit in hits if hit.relevance >= least)


def conversation_vector(vectors: Sequence[Vectors | None]) -> Vectors | None:
    """Return the unit vector of a conversation from those of its messages, oldest first; the newest weighs most.

    None if the newest message has none: the others alone would answer another question.
    """
    if not vectors or vectors[-1] is None:
        return None
    blended = vectors[-1].copy()
    for age, vector in enumerate(reversed(vectors[:-1]), start=1):
        if vector is not None:
            blended += np.float32(FADE**age) * vector
    length = float(np.linalg.norm(blended))
    return blended / np.float32(length) if length > 0 else vectors[-1]
