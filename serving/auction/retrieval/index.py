"""Search over the creatives of all campaigns: by meaning, by words, merged by reciprocal rank, among the eligible.

The encoder stays outside: it takes milliseconds and belongs on a thread of its own, while the index belongs to the
router's event loop. Without a vector, for a question or for a creative, the words alone decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId
from serving.auction.eligibility.evaluation import Eligible, Evaluation
from serving.auction.retrieval.keywords import KeywordIndex
from serving.auction.retrieval.vectors import VectorIndex, Vectors
from serving.campaigns.types import Creative

RANK_CONSTANT = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009): how much the very first ranks stand out."""


@dataclass(frozen=True, slots=True)
class Found:
    """One eligible creative: `relevance` in 0..1 is the cosine to the question, or its BM25 score as a share of the
    best one where no vector is at hand; `score` is the fused one that ranks."""

    eligible: Eligible
    relevance: float
    score: float


class CreativeIndex:
    """Creatives by their rows of the eligibility index. `width` is the encoder's, 0 for words alone."""

    def __init__(self, width: int, compared: int = 1_024) -> None:
        self.vectors = VectorIndex(width, compared) if width else None
        self.keywords = KeywordIndex()
        self._ids_R: list[AdId] = []

    def put(self, rows: Sequence[int], creatives: Sequence[Creative], vectors_ND: Vectors | None = None) -> None:
        """Files creatives under their rows (`EligibilityIndex.rows_of`), with their unit vectors where there are any;
        a row that another creative held is taken over whole."""
        if rows:
            self._ids_R += [""] * (max(rows) + 1 - len(self._ids_R))
        for number, (row, creative) in enumerate(zip(rows, creatives, strict=True)):
            self._ids_R[row] = creative.id
            self.keywords.put(row, creative_text(creative))
            if self.vectors is not None and vectors_ND is not None:
                self.vectors.put(row, vectors_ND[number])
            elif self.vectors is not None:
                self.vectors.remove(row)

    def remove(self, rows: Sequence[int]) -> None:
        """Forgets what is filed under rows: before the eligibility index gives them to other creatives."""
        for row in rows:
            self.keywords.remove(row)
            if self.vectors is not None:
                self.vectors.remove(row)

    def search(self, query: str, query_D: Vectors | None, evaluation: Evaluation, count: int) -> tuple[Found, ...]:
        """The `count` eligible creatives that fit best, best first; equal scores in the order of creative ids.

        Both searches go twice as deep as `count`. The query is the last message; `query_D` may stand for more of what
        is known (`query_text`).
        """
        rows_E, depth = evaluation.rows_E, 2 * count
        if not len(rows_E) or count <= 0:
            return ()
        by_words, word_scores = self.keywords.search(query, rows_E, depth)
        scores: dict[int, float] = {}
        _add_ranks(scores, by_words, word_scores)
        best_words = float(word_scores.max()) if len(word_scores) else 0.0
        relevance = {int(p): float(s) / best_words for p, s in zip(by_words, word_scores, strict=True)}
        if self.vectors is not None and query_D is not None:
            by_meaning, cosines = self.vectors.search(query_D, rows_E, depth)
            _add_ranks(scores, by_meaning, cosines)
            found = np.fromiter(scores, np.int64, len(scores))
            all_cosines = self.vectors.cosines(query_D, rows_E[found])
            relevance = {int(p): max(0.0, float(c)) for p, c in zip(found, all_cosines, strict=True)}
        ranked = sorted(scores, key=lambda position: -scores[position])
        least = scores[ranked[min(count, len(ranked)) - 1]] if ranked else 0.0
        # texts of one form tie by the hundred: only what is returned becomes a record
        tied = np.array([p for p in ranked if scores[p] >= least], np.int64)
        ids, rows = self._ids_R, rows_E[tied].tolist()
        best = sorted((-scores[p], ids[row], p) for p, row in zip(tied.tolist(), rows, strict=True))[:count]
        return tuple(Found(evaluation.eligible(p), relevance[p], scores[p]) for _, _, p in best)


def creative_text(creative: Creative) -> str:
    """What is encoded and indexed of a creative."""
    return f"{creative.title}: {creative.text}"


def query_text(query: str, interests: Sequence[str] = ()) -> str:
    """What is encoded of a question; interests only with consent."""
    return f"{query} {', '.join(interests)}" if interests else query


def _add_ranks(scores: dict[int, float], positions: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Adds 1 / (constant + rank) to each position; equal values share the better rank, so that the order in which
    creatives were filed plays no part."""
    order = np.argsort(-values, kind="stable")
    rank, before = 0, None
    for number, (position, value) in enumerate(zip(positions[order].tolist(), values[order].tolist(), strict=True), 1):
        if value != before:
            rank, before = number, value
        scores[position] = scores.get(position, 0.0) + 1 / (RANK_CONSTANT + rank)
