"""The relevance floor: which candidates are close enough to the conversation, and whether it has a need at all.

"Who was Napoleon?" and "hello" get no candidates. Two bars decide: the conversation must sound like a need (a linear
classifier on its text and vector, fitted to questions with and without one), and each candidate must be near to it.
Where no vector is known, the search by words decides alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from serving.auction.retrieval import Hit
from serving.auction.retrieval.vectors import Vectors
from serving.auction.sensitive.meaning import Meaning, Reading
from serving.auction.sensitive.rules import is_english, may_be_english, shared_rules

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
        if self.least <= 0 or conversation_D is None or self.meaning is None or not self.meaning.sighted:
            return True
        return self.meaning.need(_read(self.meaning, message), conversation_D) > 0

    def keep(self, message: str, hits: tuple[Hit, ...], conversation_D: Vectors | None) -> tuple[Hit, ...]:
        """Return the hits that are near enough; found by words alone, all of them are.

        Where the classifier of needs cannot read, they have to be nearer.
        """
        if self.least <= 0 or conversation_D is None:
            return hits
        least = self.least if may_be_english(message) else self.least + NEARER
        return tuple(hit for hit in hits if hit.relevance >= least)


@lru_cache(maxsize=1_024)
def _read(meaning: Meaning, message: str) -> Reading:
    return meaning.read(message, shared_rules().topics(message), is_english(message))
