"""The quality term of the reward in training: the answers' qualities, computed only where they have a weight."""

from __future__ import annotations

from collections.abc import Sequence

from inference.encoder import shared_encoder
from mechanism.types import Answer, Context
from trainers.reward.quality import answer_qualities


def weighted_qualities(items: Sequence[tuple[Context, Answer, bool]], weight: float) -> list[float]:
    """Return the quality 0..1 of each (context, answer, finished); without a weight 1, as encoding them takes time."""
    if weight == 0:
        return [1.0] * len(items)
    return answer_qualities([(c.query, answer, finished) for c, answer, finished in items], shared_encoder().encode)
