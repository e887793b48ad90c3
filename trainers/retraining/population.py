"""How far the questions of two times lie apart: squared distance of their mean embeddings over the variance of the
earlier ones, freed of what chance alone puts between two samples. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mechanism.errors import InputError


def population_shift(before_ND: NDArray[np.float32], now_MD: NDArray[np.float32]) -> float:
    """0 where nothing but chance lies between the two samples of embeddings (N and M rows), about 1 where the means
    are as far apart as two questions of one time are; unbiased, and cut off at 0. It sees what moves the mean.

    Raises InputError for fewer than two rows on either side.
    """
    if len(before_ND) < 2 or len(now_MD) < 2:
        raise InputError("embeddings", (len(before_ND), len(now_MD)), "give at least two questions of each time")
    before, now = before_ND.astype(np.float64), now_MD.astype(np.float64)
    variance = float(before.var(axis=0, ddof=1).sum())
    chance = variance / len(before) + float(now.var(axis=0, ddof=1).sum()) / len(now)
    distance = float(((before.mean(axis=0) - now.mean(axis=0)) ** 2).sum())
    return max(0.0, (distance - chance) / variance) if variance > 0 else float(distance > 1e-12)
