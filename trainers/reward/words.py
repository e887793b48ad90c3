"""Words that two texts share, as an unlearned comparison beside the encoder's cosines.

A sentence encoder says what a text is about, but hardly whether the very thing that is asked for is offered. Words are
compared by their first four letters, so that "tents" equals "tent", and weighted by inverse document frequency
(K. Spärck Jones, 1972): a rare word that two texts share counts more than a frequent one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping

_WORD = re.compile(r"[^\W\d_]{3,}")
STEM_LETTERS = 4


class WordWeights:
    """Inverse document frequencies of words in the texts that a model was fitted to."""

    def __init__(self, weights: Mapping[str, float], unseen: float) -> None:
        self.weights = dict(weights)
        self.unseen = unseen
        self._cache: dict[str, dict[str, float]] = {}

    @classmethod
    def of(cls, texts: Iterable[str]) -> WordWeights:
        """Count the words of distinct texts."""
        distinct = set(texts)
        found = Counter(word for text in distinct for word in set(_words(text)))
        weights = {word: math.log((len(distinct) + 1) / (count + 0.5)) for word, count in sorted(found.items())}
        return cls(weights, math.log((len(distinct) + 1) / 0.5))

    def cosine(self, first: str, second: str) -> float:
        """Return the cosine of the two texts' weighted word counts, 0..1."""
        one, other = sorted((self._vector(first), self._vector(second)), key=len)
        return math.fsum(weight * other.get(word, 0.0) for word, weight in one.items())

    def _vector(self, text: str) -> dict[str, float]:
        if text not in self._cache:
            counts = Counter(_words(text))
            weighted = {word: n * self.weights.get(word, self.unseen) for word, n in counts.items()}
            length = math.sqrt(math.fsum(w * w for w in weighted.values())) or 1.0
            self._cache[text] = {word: w / length for word, w in weighted.items()}
        return self._cache[text]


def _words(text: str) -> list[str]:
    return [word[:STEM_LETTERS] for word in _WORD.findall(text.casefold())]
