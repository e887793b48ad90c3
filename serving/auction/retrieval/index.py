"""Search over the creatives of all campaigns: by meaning and by words, merged by reciprocal rank, among the eligible.

The encoder is called elsewhere: it takes milliseconds and runs on its own thread, while the index belongs to the
router's event loop. Where a question or a creative has no vector, words alone decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId
from serving.auction.eligibility import Eligible, Evaluation
from serving.auction.eligibility.columns import grown
from serving.auction.retrieval.keywords import KeywordIndex
from serving.auction.retrieval.vectors import Clustering, VectorIndex, Vectors
from serving.campaigns.types import Creative

RANK_CONSTANT = 60
"""Constant of reciprocal rank fusion (Cormack, Clarke and Buettcher 2009); a small one favours the first ranks."""


class Hit(NamedTuple):
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
        self._keys_R = np.zeros(1_024, np.uint64)

    def put(self, rows: Sequence[int], creatives: Sequence[Creative]) -> None:
        """File creatives under their rows (`EligibilityIndex.rows_of`), without vectors."""
        if rows and max(rows) >= len(self._keys_R):
            self._keys_R = grown(self._keys_R, max(rows) + 1)
        for row, creative in zip(rows, creatives, strict=True):
            self._keys_R[row] = _key(creative.id)
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
        """Return the `count` eligible creatives that fit best, best first.

        A hash of the creative's id decides between equal scores: neither its name nor the order of filing does.

        `query` is the last message; `query_D` may encode more context (`query_text`). Both searches retrieve twice
        `count`. Search before the index changes that made the evaluation.
        """
        depth = 2 * count
        if not len(evaluation) or count <= 0:
            return ()
        rows, values = self._keywords.search(query, evaluation.admits, depth, evaluation.few_rows)
        scores, relevance = _ranks(values), values / values.max(initial=1e-9)
        if self._vectors is not None and query_D is not None:
            by_meaning, cosines = self._vectors.search(query_D, evaluation.admits, depth, evaluation.few_rows)
            listed = np.concatenate([rows, by_meaning])
            rows, places = np.unique(listed, return_inverse=True)
            scores = np.bincount(places, np.concatenate([scores, _ranks(cosines)]), len(rows)).astype(np.float64)
            relevance = np.maximum(self._vectors.cosines(query_D, rows), 0)
        best = self._best(rows, scores, count)
        fitting, found = relevance[best].tolist(), evaluation.eligible(rows[best])
        return tuple(map(Hit, found, fitting, scores[best].tolist()))

    def _best(self, rows: NDArray[np.int64], scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
        """Return the places of the `count` highest scores, best first; similar texts tie by the hundred."""
        places = np.arange(len(rows))
        if len(rows) > count:
            least = np.partition(scores, len(scores) - count)[len(scores) - count]
            above, tied = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
            missing = count - len(above)
            if len(tied) > missing:
                tied = tied[np.argpartition(self._keys_R[rows[tied]], missing - 1)[:missing]]
            places = np.concatenate([above, tied])
        return places[np.lexsort((self._keys_R[rows[places]], -scores[places]))]


def creative_text(creative: Creative) -> str:
    """Return the text of a creative that is encoded and indexed."""
    return f"{creative.title}: {creative.text}"


def query_text(query: str, interests: Sequence[str] = ()) -> str:
    """Return the text of a question that is encoded; give interests only with consent."""
    return f"{query} {', '.join(interests)}" if interests else query


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return 1 / (constant + rank) of each value; equal values share the better rank."""
    falling = -values
    rank = np.searchsorted(np.sort(falling), falling, side="left") + 1
    scores: NDArray[np.float64] = 1 / (RANK_CONSTANT + rank)
    return scores


def _key(creative_id: AdId) -> int:
    """Hash a creative's id to the 64 bits that decide between equal scores."""
    return int.from_bytes(blake2b(creative_id.encode(), digest_size=8, person=b"equal scores").digest(), "big")
