"""The simulator's true click probabilities in place of a learned model: the oracle of the result tables."""

from __future__ import annotations

from collections.abc import Sequence

from mechanism.types import AdId, Answer, Context
from simulator.clicks import ClickModel


class OraclePredictor:
    """Implements ClickPredictor with the ground truth."""

    def __init__(self, clicks: ClickModel) -> None:
        self._clicks = clicks

    def probabilities(self, pairs: Sequence[tuple[Context, Answer]]) -> list[dict[AdId, float]]:
        """True click probability by shown ad for every answer."""
        return [self._clicks.probabilities(context, answer) for context, answer in pairs]
