"""The vector of a conversation: follow-ups are read with the messages before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.auction.retrieval.vectors import Vectors

FADE = 0.6
"""Weight of a message's vector relative to the one after it."""


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
