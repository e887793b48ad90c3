"""Unit vectors of creatives by row, searched among the eligible rows only.

Few eligible rows are compared exactly. Many are searched by clusters (an inverted file over spherical k-means
centroids): the clusters nearest to the question are read until they hold enough eligible rows, so that the time of a
search hardly grows with the catalogue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.auction.eligibility.columns import grown

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
CLUSTERS = 256
SAMPLE = 16_384
"""Rows that the centroids are fitted to."""
_ROUNDS = 8
_STEP = 1_024
"""Rows in one matrix product: a few milliseconds, after which other threads run."""


class VectorIndex:
    """Unit vectors of one width, by rows of the eligibility index.

    A search compares at least `compared` eligible rows, or all if there are fewer; up to twice that it is exact.
    """

    def __init__(self, width: int, compared: int = 1_024) -> None:
        self._compared = compared
        self._vectors_RD: Vectors = np.zeros((1_024, width), np.float32)
        self._clusters_R = np.zeros(1_024, np.int16)
        self._filled_R = np.zeros(1_024, np.bool_)
        self._centroids_KD: Vectors | None = None
        self._clustered = 0  # vectors at the last clustering
        self._changed: set[int] | None = None  # rows put while a clustering runs
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, row: int, vector_D: Vectors) -> None:
        """File a unit vector under a row in place of its former one."""
        if row >= len(self._filled_R):
            self._vectors_RD = grown(self._vectors_RD, row + 1)
            self._clusters_R = grown(self._clusters_R, row + 1)
            self._filled_R = grown(self._filled_R, row + 1)
        self._size += not self._filled_R[row]
        self._vectors_RD[row], self._filled_R[row] = vector_D, True
        if self._centroids_KD is not None:
            self._clusters_R[row] = int(np.argmax(self._centroids_KD @ vector_D))
        if self._changed is not None:
            self._changed.add(row)

    def remove(self, row: int) -> None:
        """Remove the vector under a row; an empty row is ignored."""
        if row < len(self._filled_R) and self._filled_R[row]:
            self._filled_R[row] = False
            self._vectors_RD[row] = 0
            self._size -= 1

    def start_clustering(self) -> Clustering | None:
        """Begin a clustering if there are twice as many vectors as at the last one, else return None.

        It takes seconds for 100,000 vectors: call its `run` on any thread while the index stays in use, then `adopt`.
        The result depends on nothing but the vectors and their rows.
        """
        if self._size < 8 * CLUSTERS or self._size < 2 * self._clustered:
            return None
        self._changed = set()
        return Clustering(self._vectors_RD, np.flatnonzero(self._filled_R))

    def adopt(self, clustering: Clustering) -> None:
        """Search by the clusters of a finished clustering; rows put while it ran are assigned to them as well."""
        self._centroids_KD, self._clustered = clustering.centroids_KD, len(clustering.rows)
        self._clusters_R[clustering.rows] = clustering.clusters
        if self._changed:
            changed = np.fromiter(self._changed, np.int64, len(self._changed))
            self._clusters_R[changed] = _nearest(self._vectors_RD[changed], self._centroids_KD)
        self._changed = None

    def search(self, query_D: Vectors, rows_E: Rows, count: int) -> tuple[NDArray[np.int64], Vectors]:
        """Return positions in `rows_E` of the `count` nearest rows and their cosines.

        Ties with the last one are included; rows without a vector are not found.
        """
        positions = np.flatnonzero(self._is_filled(rows_E))
        if len(positions) > 2 * self._compared and self._centroids_KD is not None:
            positions = positions[self._in_nearest_clusters(query_D, rows_E[positions])]
        return best_with_ties(positions, _dots(self._vectors_RD[rows_E[positions]], query_D), count)

    def cosines(self, query_D: Vectors, rows: Rows) -> Vectors:
        """Return the cosine of each row to the question, 0 for a row without a vector."""
        found = np.zeros(len(rows), np.float32)
        filled = self._is_filled(rows)
        found[filled] = _dots(self._vectors_RD[rows[filled]], query_D)
        return found

    def _is_filled(self, rows: Rows) -> NDArray[np.bool_]:
        inside = rows < len(self._filled_R)
        if inside.all():
            return self._filled_R[rows]
        inside[inside] = self._filled_R[rows[inside]]
        return inside

    def _in_nearest_clusters(self, query_D: Vectors, rows: Rows) -> NDArray[np.int64]:
        """Return positions in `rows` of the clusters nearest to the question, at least `compared` positions."""
        assert self._centroids_KD is not None, "the vectors are clustered"
        clusters = self._clusters_R[rows]
        order = np.argsort(-(self._centroids_KD @ query_D), kind="stable")
        sizes = np.bincount(clusters, minlength=CLUSTERS)[order]
        needed = int(np.searchsorted(np.cumsum(sizes), self._compared)) + 1
        wanted = np.zeros(CLUSTERS, np.bool_)
        wanted[order[:needed]] = True
        return np.flatnonzero(wanted[clusters])


class Clustering:
    """Spherical k-means over the vectors of `rows`; `centroids_KD` and `clusters` (of `rows`) are valid after `run`."""

    def __init__(self, vectors_RD: Vectors, rows: Rows) -> None:
        self.rows = rows
        self._vectors_RD = vectors_RD
        sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
        self._sample_SD = vectors_RD[sample]
        self.centroids_KD: Vectors = self._sample_SD[:: len(sample) // CLUSTERS][:CLUSTERS].copy()
        self.clusters = np.zeros(len(rows), np.int16)

    def run(self) -> None:
        """Fit the centroids to a sample and assign every row, in steps between which other threads may run."""
        sample_SD, centroids_KD = self._sample_SD, self.centroids_KD
        for _ in range(_ROUNDS):
            nearest_S = _nearest(sample_SD, centroids_KD)
            sums_KD = np.zeros_like(centroids_KD)
            for i in range(0, len(sample_SD), _STEP):
                np.add.at(sums_KD, nearest_S[i : i + _STEP], sample_SD[i : i + _STEP])
            norms_K1 = np.linalg.norm(sums_KD, axis=1, keepdims=True)
            centroids_KD = np.where(norms_K1 > 0, sums_KD / np.maximum(norms_K1, 1e-12), centroids_KD)
        self.centroids_KD = centroids_KD.astype(np.float32)
        for i in range(0, len(self.rows), _STEP):
            self.clusters[i : i + _STEP] = _nearest(self._vectors_RD[self.rows[i : i + _STEP]], self.centroids_KD)


def best_with_ties(
    positions: NDArray[np.int64], scores: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keep the positions of the `count` highest scores, and all that tie with the last of them."""
    if len(positions) <= count:
        return positions, scores
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    best = np.flatnonzero(scores >= least)
    return positions[best], scores[best]


def _dots(vectors_ND: Vectors, query_D: Vectors) -> Vectors:
    """Return dot products that depend on the two vectors alone.

    The last bits of a matrix product depend on a row's place among the others: equal creatives would be ranked by the
    rows they happen to have.
    """
    dots: Vectors = np.einsum("nd,d->n", vectors_ND, query_D)
    return dots


def _nearest(vectors_ND: Vectors, centroids_KD: Vectors) -> NDArray[np.int64]:
    """Return the nearest centroid of each vector, computed in slices that keep the scores small."""
    parts = [np.argmax(vectors_ND[i : i + _STEP] @ centroids_KD.T, axis=1) for i in range(0, len(vectors_ND), _STEP)]
    return np.concatenate(parts)
