"""Which slots have changed since when: what a standing of all campaigns has to compute again, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

KEPT = 65_536
"""Changes that are remembered; a reader that has missed more computes everything again."""


class ChangeLog:
    """The slots that changed, in order; `position` grows by one with each."""

    def __init__(self) -> None:
        self._slots: list[int] = []
        self._dropped = 0

    @property
    def position(self) -> int:
        """The number of changes so far."""
        return self._dropped + len(self._slots)

    def mark(self, slot: int) -> None:
        """Note that a slot has changed."""
        self.mark_many((slot,))

    def mark_many(self, slots: Iterable[int]) -> None:
        """Note that slots have changed."""
        self._slots.extend(slots)
        if len(self._slots) >= 2 * KEPT:
            self._forget(len(self._slots) - KEPT)

    def mark_all(self) -> None:
        """Note that every slot may have changed."""
        self._forget(len(self._slots))
        self._dropped += 1

    def since(self, position: int) -> NDArray[np.int32] | None:
        """Return the slots that changed after `position`, each once and sorted; None if they are not remembered."""
        if position < self._dropped:
            return None
        return np.unique(np.array(self._slots[position - self._dropped :], np.int32))

    def _forget(self, count: int) -> None:
        del self._slots[:count]
        self._dropped += count
