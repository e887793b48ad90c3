"""Where reading has to start again so that nothing open is missed: one point for all topics of a partition."""

from __future__ import annotations

from collections.abc import Mapping

from streaming.log import Partition


class ReplayPoint:
    """Positions at the beginning of each batch, for as long as something that the batch began is open. Whatever belongs
    to it lies at those positions or after them, in every topic."""

    def __init__(self) -> None:
        self._positions: dict[Partition, int] = {}
        self._batch = 0
        self._held: dict[int, tuple[dict[Partition, int], int]] = {}

    @property
    def mark(self) -> int:
        """The batch that is being read; `hold` it for everything that it begins."""
        return self._batch

    def hold(self, mark: int) -> None:
        """Something that this batch began is open."""
        positions, count = self._held.get(mark) or (dict(self._positions), 0)
        self._held[mark] = (positions, count + 1)

    def release(self, mark: int) -> None:
        """It is over."""
        positions, count = self._held[mark]
        if count > 1:
            self._held[mark] = (positions, count - 1)
        else:
            del self._held[mark]

    def passed(self, after: Mapping[Partition, int]) -> None:
        """A batch was read."""
        if after:
            self._positions.update(after)
            self._batch += 1

    def offsets(self) -> dict[Partition, int]:
        """Where to start; partitions of which nothing was read are left out."""
        oldest = min(self._held, default=None)
        return dict(self._positions if oldest is None else self._held[oldest][0])
