"""Unit vectors of creatives by row, searched among the eligible rows only.

Few eligible rows are compared exactly. Among many, the rows are looked up by cells (an inverted file over spherical
k-means centroids): the cells nearest to the question are read until enough eligible rows have been seen, so the time of
a search hardly grows with the catalogue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
CELLS = 256
SAMPLE = 16_384
"""Rows that the centroids are fitted to."""
_ROUNDS = 8
_STEP = 1_024


class VectorIndex:
    """Unit vectors of one width. `compared` is how many eligible rows a search reads at least, where there are so many;
    a search is exact up to twice as many. Rows are the eligibility index's."""

    def __init__(self, width: int, compared: int = 1_024) -> None:
        self._compared = compared
        self._vectors_RD: Vectors = np.zeros((0, width), np.float32)
        self._cells_R = np.zeros(0, np.int16)
        self._filled_R = np.zeros(0, np.bool_)
        self._centroids_KD: Vectors | None = None
        self._fitted_to = 0
        self._changed: set[int] | None = None  # rows put since a fitting began, while it runs
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, row: int, vector_D: Vectors) -> None:
        """Files a unit vector under a row, in place of any before it."""
        if row >= len(self._filled_R):
            self._grow(row + 1)
        self._size += not self._filled_R[row]
        self._vectors_RD[row], self._filled_R[row] = vector_D, True
        if self._centroids_KD is not None:
            self._cells_R[row] = int(np.argmax(self._centroids_KD @ vector_D))
        if self._changed is not None:
            self._changed.add(row)

    def remove(self, row: int) -> None:
        """Empties a row."""
        if row < len(self._filled_R) and self._filled_R[row]:
            self._filled_R[row] = False
            self._vectors_RD[row] = 0
            self._size -= 1

    def fit(self) -> bool:
        """Fits the cells when there are many more vectors than at the last time; True if it did. Takes seconds for
        100,000 vectors: whoever may not wait does the three steps apart. The fit depends on nothing but the vectors
        and their rows."""
        fitting = self.fitting()
        if fitting is None:
            return False
        fitting.run()
        self.take(fitting)
        return True

    def fitting(self) -> Fitting | None:
        """What is to be fitted, where it is time: `run` it, on any thread, while the index is used, then `take` it."""
        if self._size < 8 * CELLS or self._size < 2 * self._fitted_to:
            return None
        self._changed = set()
        return Fitting(self._vectors_RD, np.flatnonzero(self._filled_R))

    def take(self, fitting: Fitting) -> None:
        """Goes over to the cells of a fitting that has run; what changed meanwhile is filed by them, too."""
        self._centroids_KD, self._fitted_to = fitting.centroids_KD, len(fitting.rows)
        self._cells_R[fitting.rows] = fitting.cells
        if self._changed:
            changed = np.fromiter(self._changed, np.int64, len(self._changed))
            self._cells_R[changed] = _nearest(self._vectors_RD[changed], self._centroids_KD)
        self._changed = None

    def search(self, query_D: Vectors, rows_E: Rows, count: int) -> tuple[NDArray[np.int64], Vectors]:
        """Positions in `rows_E` of the `count` nearest rows or a few more (ties are not cut), with their cosines. Rows
        without a vector are never found."""
        positions = np.flatnonzero(self._known(rows_E))
        if len(positions) > 2 * self._compared and self._centroids_KD is not None:
            positions = positions[self._near(query_D, rows_E[positions])]
        cosines = _dots(self._vectors_RD[rows_E[positions]], query_D)
        if len(positions) > count:
            least = np.partition(cosines, len(cosines) - count)[len(cosines) - count]
            best = np.flatnonzero(cosines >= least)
            positions, cosines = positions[best], cosines[best]
        return positions, cosines

    def cosines(self, query_D: Vectors, rows: Rows) -> Vectors:
        """The cosine of each row to the question, 0 for a row without a vector."""
        found = np.zeros(len(rows), np.float32)
        known = self._known(rows)
        found[known] = _dots(self._vectors_RD[rows[known]], query_D)
        return found

    def _known(self, rows: Rows) -> NDArray[np.bool_]:
        known = rows < len(self._filled_R)
        if known.all():
            return self._filled_R[rows]
        known[known] = self._filled_R[rows[known]]
        return known

    def _near(self, query_D: Vectors, rows: Rows) -> NDArray[np.int64]:
        """Positions in `rows` that lie in the cells nearest to the question, at least `compared` of them."""
        assert self._centroids_KD is not None, "the cells are fitted"
        cells = self._cells_R[rows]
        order = np.argsort(-(self._centroids_KD @ query_D), kind="stable")
        sizes = np.bincount(cells, minlength=CELLS)[order]
        needed = int(np.searchsorted(np.cumsum(sizes), self._compared)) + 1
        wanted = np.zeros(CELLS, np.bool_)
        wanted[order[:needed]] = True
        return np.flatnonzero(wanted[cells])

    def _grow(self, least: int) -> None:
        capacity = max(least, 2 * len(self._filled_R), 1_024)
        for name in ("_vectors_RD", "_cells_R", "_filled_R"):
            old = getattr(self, name)
            larger = np.zeros((capacity, *old.shape[1:]), old.dtype)
            larger[: len(old)] = old
            setattr(self, name, larger)


class Fitting:
    """Spherical k-means over the filled `rows` as they are now; `cells` are theirs once it has run."""

    def __init__(self, vectors_RD: Vectors, rows: Rows) -> None:
        self.rows = rows
        self._vectors_RD = vectors_RD
        sample = rows[:: max(1, len(rows) // SAMPLE)][:SAMPLE]
        self._sample_SD = vectors_RD[sample]
        self.centroids_KD: Vectors = self._sample_SD[:: len(sample) // CELLS][:CELLS].copy()
        self.cells = np.zeros(len(rows), np.int16)

    def run(self) -> None:
        """Does the work, in steps that each leave the interpreter to other threads after a few milliseconds."""
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
            self.cells[i : i + _STEP] = _nearest(self._vectors_RD[self.rows[i : i + _STEP]], self.centroids_KD)


def _dots(vectors_ND: Vectors, query_D: Vectors) -> Vectors:
    """Dot products that depend on the two vectors alone. A matrix product's last bits depend on a row's place among the
    others, and equal creatives would then be told apart by where they happen to be filed."""
    dots: Vectors = np.einsum("nd,d->n", vectors_ND, query_D)
    return dots


def _nearest(vectors_ND: Vectors, centroids_KD: Vectors) -> NDArray[np.int64]:
    """The nearest centroid of each vector, in slices that keep the scores small."""
    parts = [np.argmax(vectors_ND[i : i + _STEP] @ centroids_KD.T, axis=1) for i in range(0, len(vectors_ND), _STEP)]
    return np.concatenate(parts)
