"""Mends of kafka-python 3.0's consumer, for polls that are shorter than joining takes and for pausing.

*Joining.* The client joins on a thread of its own, and `poll` waits for that. A poll that ends first leaves the attempt
running; the next one should take up its result, but:

- an attempt that ended *between* two polls is thrown away and made again, which begins a rebalance for everybody. Two
  members with short polls can keep each other from their partitions that way for minutes;
- a leader that joins again because topics changed forgets to go on (its reason to join is gone once it has assigned):
  it would be without partitions and heartbeats until the group threw it out.

*Pausing.* What was fetched of a partition that is then paused is parked, and comes back after `resume` into a slot, if
that is None. But the slot still holds the records of the partition that was read last, all of them given out: where
every partition that may be read is parked, nothing replaces it, and the consumer gives nothing any more for ever.

All this is in the client's private parts, so the client's version is bound in `pyproject.toml`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kafka.coordinator.base import MemberState


class Joining:
    """Watches the coordinator of one client. Call `resume` before each poll."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._attempt: Callable[[], Awaitable[bytes]] = coordinator._do_join_and_sync_async
        self._unclaimed: tuple[Any, bytes] | None = None
        coordinator._do_join_and_sync_async = self._join

    def resume(self) -> None:
        """Has the next poll go on with a join that was begun."""
        if self._coordinator.rejoining and not self._coordinator.need_rejoin():
            self._coordinator.request_rejoin()

    async def _join(self) -> bytes:
        """One attempt, or the result of the last one if nobody came for it.

        A result that somebody did come for has made the member stable, and an attempt that failed has no result: so
        what is kept belongs to this generation and to a member that is still joining, or is of no use.
        """
        kept, self._unclaimed = self._unclaimed, None
        if kept and kept[0] == self._coordinator._generation and self._coordinator.state is MemberState.REBALANCING:
            return kept[1]
        assignment = await self._attempt()
        self._unclaimed = (self._coordinator._generation, assignment)
        return assignment


def free_slot(fetcher: Any) -> None:
    """Has the next poll give what was parked, where all in its slot was given out."""
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None
