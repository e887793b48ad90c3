"""The campaigns by slot, and snapshots of them that share what has not changed.

An auction's record holds the snapshot of its moment. Each chunk of a snapshot is shared by all snapshots until one of
its campaigns changes, so that a thousand records between a thousand changes need little more memory than one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serving.campaigns.types import Campaign

CHUNK = 256
_Chunk = tuple[Campaign | None, ...]


@dataclass(frozen=True, slots=True)
class FrozenCampaigns:
    """The campaigns of one moment."""

    chunks: tuple[_Chunk, ...]

    def __getitem__(self, slot: int) -> Campaign | None:
        return self.chunks[slot // CHUNK][slot % CHUNK]


class CampaignSlots:
    """The latest version of each campaign by slot, None where a slot is free."""

    def __init__(self) -> None:
        self._campaigns: list[Campaign | None] = []
        self._free: list[int] = []
        self._stale: set[int] = set()
        self._chunks: list[_Chunk] = []
        self._frozen: FrozenCampaigns | None = FrozenCampaigns(())

    def __len__(self) -> int:
        """Return the number of slots, free ones included."""
        return len(self._campaigns)

    def __iter__(self) -> Iterator[Campaign]:
        return (campaign for campaign in self._campaigns if campaign is not None)

    def __getitem__(self, slot: int) -> Campaign | None:
        return self._campaigns[slot]

    def take(self) -> int:
        """Return a free slot."""
        if self._free:
            return self._free.pop()
        self._campaigns.append(None)
        return len(self._campaigns) - 1

    def put(self, slot: int, campaign: Campaign) -> None:
        """Write a campaign into its slot."""
        self._write(slot, campaign)

    def free(self, slot: int) -> None:
        """Free a slot."""
        self._write(slot, None)
        self._free.append(slot)

    def frozen(self) -> FrozenCampaigns:
        """Return a snapshot; the same one until the next change."""
        if self._frozen is None:
            self._chunks += [()] * (-(-len(self._campaigns) // CHUNK) - len(self._chunks))
            for number in self._stale:
                self._chunks[number] = tuple(self._campaigns[number * CHUNK : (number + 1) * CHUNK])
            self._stale.clear()
            self._frozen = FrozenCampaigns(tuple(self._chunks))
        return self._frozen

    def _write(self, slot: int, campaign: Campaign | None) -> None:
        self._campaigns[slot], self._frozen = campaign, None
        self._stale.add(slot // CHUNK)
