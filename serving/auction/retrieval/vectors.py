"""Unit vectors of creatives by row, searched among the eligible rows only.

Many vectors are searched by clusters (an inverted file over spherical k-means centroids): the clusters nearest to the
question are read until they hold enough eligible rows, so that the time of a search hardly grows with the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from serving.auction.eligibility.columns import grown

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Admits = Callable[[Rows], NDArray[np.bool_]]
"""Which of some rows are eligible."""
CLUSTERS = 256
SAMPLE = 16_384
"""Rows that the centroids are fitted to."""
_ROUNDS = 8
_STEP = 1_024
"""Rows in one matrix product: a few milliseconds, after which other threads run."""
_UNLISTED = 1_024
"""Rows put since the clusters were last listed that a search compares beside them."""


class VectorIndex:
    """Unit vectors of one width, by rows of the eligibility index.

    A search compares at least `compared` eligible rows, or all if there are fewer.
    """

    def __init__(self, width: int, compared: int = 1_024) -> None:
        self._compared = compared
        self._vectors_RD: Vectors = np.zeros((1_024, width), np.float32)
        self._clusters_R = np.zeros(1_024, np.int16)
        self._filled_R = np.zeros(1_024, np.bool_)
        self._centroids_KD: Vectors | None = None
        self._listed: list[Rows] = []  # the rows of each cluster, but for the unlisted
        self._unlisted: set[int] = set()  # rows put since
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
            self._unlisted.add(row)
            if len(self._unlisted) > _UNLISTED:
                self._list_clusters()
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
        self._list_clusters()

    def search(
        self, query_D: Vectors, admits: Admits, count: int, few_rows: Rows | None = None
    ) -> tuple[Rows, Vectors]:
        """Return the `count` nearest of the admitted rows and their cosines.

        Ties with the last one are included; rows without a vector are not found. `few_rows`, where given, has every
        row that is admitted: looking for a few in the clusters would read most of them.
        """
        if few_rows is None:
            rows = self._near(query_D, admits)
        else:
            rows = few_rows[self._is_filled(few_rows)]
            rows = rows[admits(rows)]
        return best_with_ties(rows, _dots(self._vectors_RD[rows], query_D), count)

    def cosines(self, query_D: Vectors, rows: Rows) -> Vectors:
        """Return the cosine of each row to the question, 0 for a row without a vector."""
        found = np.zeros(len(rows), np.float32)
        filled = self._is_filled(rows)
        found[filled] = _dots(self._vectors_RD[rows[filled]], query_D)
        return found

    def _near(self, query_D: Vectors, admits: Admits) -> Rows:
        """Return admitted rows to compare: those of the clusters nearest to the question, or all."""
        if self._centroids_KD is None or self._size <= 2 * self._compared:
            rows = np.flatnonzero(self._filled_R)
            return rows[admits(rows)]
        unlisted = np.sort(np.fromiter(self._unlisted, np.int64, len(self._unlisted)))
        unlisted = unlisted[self._filled_R[unlisted]]
        found = [unlisted[admits(unlisted)]]
        order = np.argsort(-(self._centroids_KD @ query_D), kind="stable").tolist()
        taken, size = len(found[0]), 4
        while order and taken < self._compared:
            nearest, order, size = order[:size], order[size:], 2 * size
            rows = np.concatenate([self._listed[cluster] for cluster in nearest])
            rows = rows[self._filled_R[rows]]
            if len(unlisted):
                rows = rows[~np.isin(rows, unlisted)]
            found.append(rows[admits(rows)])
            taken += len(found[-1])
        return np.concatenate(found)

    def _is_filled(self, rows: Rows) -> NDArray[np.bool_]:
        inside = rows < len(self._filled_R)
        if inside.all():
            return self._filled_R[rows]
        inside[inside] = self._filled_R[rows[inside]]
        return inside

    def _list_clusters(self) -> None:
        """List the rows of each cluster."""
        rows = np.flatnonzero(self._filled_R)
        clusters = self._clusters_R[rows]
        order = np.argsort(clusters, kind="stable")
        self._listed = np.split(rows[order], np.cumsum(np.bincount(clusters, minlength=CLUSTERS))[:-1])
        self._unlisted.clear()


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


def best_with_ties(rows: Rows, scores: NDArray[np.float32], count: int) -> tuple[Rows, NDArray[np.float32]]:
    """Keep the rows of the `count` highest scores, and all that tie with the last of them."""
    if len(rows) <= count:
        return rows, scores
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    best = np.flatnonzero(scores >= least)
    return rows[best], scores[best]


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
