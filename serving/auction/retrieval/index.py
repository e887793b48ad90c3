"""Search over the creatives of all campaigns: by meaning and by words, merged by reciprocal rank, among the eligible.

The encoder is called elsewhere: it takes milliseconds and runs on its own thread, while the index belongs to the
router's event loop. Where a question or a creative has no vector, words alone decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId
from serving.auction.eligibility import Eligible, Evaluation
from serving.auction.retrieval.keywords import KeywordIndex
from serving.auction.retrieval.vectors import Clustering, VectorIndex, Vectors
from serving.campaigns.types import Creative

RANK_CONSTANT = 60
"""Constant of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009); a small one favours the first ranks."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One eligible creative that a search found.

    `relevance` in 0..1 is the cosine to the question or, without vectors, the BM25 score as a share of the best one.
    `score` is the fused score that ranks hits.
    """

    eligible: Eligible
    relevance: float
    score: float


class CreativeIndex:
    """Creatives by their rows of the eligibility index. `width` is that of the encoder's vectors, 0 for words alone."""

    def __init__(self, width: int, compared: int = 1_024) -> None:
        self._vectors = VectorIndex(width, compared) if width else None
        self._keywords = KeywordIndex()
        self._ids_R: list[AdId] = []

    def put(self, rows: Sequence[int], creatives: Sequence[Creative]) -> None:
        """File creatives under their rows (`EligibilityIndex.rows_of`), without vectors."""
        if rows:
            self._ids_R += [""] * (max(rows) + 1 - len(self._ids_R))
        for row, creative in zip(rows, creatives, strict=True):
            self._ids_R[row] = creative.id
            self._keywords.put(row, creative_text(creative))
            if self._vectors is not None:
                self._vectors.remove(row)

    def put_vectors(self, rows: Sequence[int], vectors_ND: Vectors) -> None:
        """File the unit vectors of the creatives under `rows`; ignored if the index searches by words alone."""
        if self._vectors is not None:
            for row, vector_D in zip(rows, vectors_ND, strict=True):
                self._vectors.put(row, vector_D)

    def remove(self, rows: Sequence[int]) -> None:
        """Remove the creatives under `rows`, before the eligibility index gives these rows to others."""
        for row in rows:
            self._keywords.remove(row)
            if self._vectors is not None:
                self._vectors.remove(row)

    def start_clustering(self) -> Clustering | None:
        """Begin a clustering of the vectors if one is due; see `VectorIndex.start_clustering`."""
        return None if self._vectors is None else self._vectors.start_clustering()

    def adopt(self, clustering: Clustering) -> None:
        """Search by the clusters of a finished clustering."""
        if self._vectors is not None:
            self._vectors.adopt(clustering)

    def search(self, query: str, query_D: Vectors | None, evaluation: Evaluation, count: int) -> tuple[Hit, ...]:
        """Return the `count` eligible creatives that fit best, best first; equal scores are ordered by creative id.

        `query` is the last message; `query_D` may encode more context (`query_text`). Both searches retrieve twice
        `count`.
        """
        rows_E, depth = evaluation.rows_E, 2 * count
        if not len(rows_E) or count <= 0:
            return ()
        by_words, word_scores = self._keywords.search(query, rows_E, depth)
        scores: dict[int, float] = {}
        _add_ranks(scores, by_words, word_scores)
        best_words = float(word_scores.max()) if len(word_scores) else 0.0
        relevance = {int(p): float(s) / best_words for p, s in zip(by_words, word_scores, strict=True)}
        if self._vectors is not None and query_D is not None:
            by_meaning, cosines = self._vectors.search(query_D, rows_E, depth)
            _add_ranks(scores, by_meaning, cosines)
            found = np.fromiter(scores, np.int64, len(scores))
            all_cosines = self._vectors.cosines(query_D, rows_E[found])
            relevance = {int(p): max(0.0, float(c)) for p, c in zip(found, all_cosines, strict=True)}
        ranked = sorted(scores, key=lambda position: -scores[position])
        least = scores[ranked[min(count, len(ranked)) - 1]] if ranked else 0.0
        # Similar texts tie by the hundred, so only the returned rows become a `Hit`.
        tied = np.array([p for p in ranked if scores[p] >= least], np.int64)
        ids, rows = self._ids_R, rows_E[tied].tolist()
        best = sorted((-scores[p], ids[row], p) for p, row in zip(tied.tolist(), rows, strict=True))[:count]
        return tuple(Hit(evaluation.eligible(p), relevance[p], scores[p]) for _, _, p in best)


def creative_text(creative: Creative) -> str:
    """Return the text of a creative that is encoded and indexed."""
    return f"{creative.title}: {creative.text}"


def query_text(query: str, interests: Sequence[str] = ()) -> str:
    """Return the text of a question that is encoded; give interests only with consent."""
    return f"{query} {', '.join(interests)}" if interests else query


def _add_ranks(scores: dict[int, float], positions: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Add 1 / (constant + rank) to the score of each position.

    Equal values share the better rank, so that the order in which creatives were filed has no effect.
    """
    order = np.argsort(-values, kind="stable")
    rank, before = 0, None
    for number, (position, value) in enumerate(zip(positions[order].tolist(), values[order].tolist(), strict=True), 1):
        if value != before:
            rank, before = number, value
        scores[position] = scores.get(position, 0.0) + 1 / (RANK_CONSTANT + rank)
