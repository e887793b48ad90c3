"""The part of one process in a phase that several machines share: a shard of its contexts, a node of the optimisation.

All parts run the same command and differ in these settings alone; starting and restarting them is left to the caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from mechanism.errors import ConfigError

OF = re.compile(r"(all|\d{1,5})/(\d{1,5})")
SHARD_BITS = 40
"""Seeds of a run stay below 2^40; a shard's number goes above them."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """One process's part: `shard` of `shards`, or `node` of `nodes`, all counted from 0.

    `shard` is None where there is one shard, or where several finished ones get merged. `meeting` is
    HOST:PORT of node 0, where the nodes rendezvous; `address` the name under which the others reach this node.
    """

    shards: int = 1
    shard: int | None = None
    nodes: int = 1
    node: int = 0
    meeting: str = ""
    address: str = ""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the shard's share of a phase's contexts: every nth from its own number on; all without shards."""
        return items if self.shard is None else items[self.shard :: self.shards]

    def seed(self, seed: int) -> int:
        """Return the shard's own seed for what it samples; the seed itself without shards and in shard 0."""
        return seed + ((self.shard or 0) << SHARD_BITS)

    def folder(self, phase: str) -> str:
        """Return the name under which the shard's result of a phase is published; the phase's own without shards."""
        return phase if self.shard is None else f"{phase}-{self.shard}-of-{self.shards}"

    @property
    def leads(self) -> bool:
        """Whether this process holds the run's lock: it is the only one, or the first of its nodes."""
        return self.shard is None and self.node == 0


ALONE = Part()


def shards_of(count: int) -> list[Part]:
    """Return the parts of all shards in order."""
    return [Part(count, shard) for shard in range(count)]


def merged(shares: Sequence[Sequence[T]]) -> list[T]:
    """Return the items of all shards' shares (`Part.share`) in the order of the whole.

    Raises:
        ConfigError: if the shares are not those of one list.
    """
    count = sum(len(share) for share in shares)
    if [len(share) for share in shares] != [len(range(shard, count, len(shares))) for shard in range(len(shares))]:
        found = ", ".join(str(len(share)) for share in shares)
        raise ConfigError("--shard", found, "the shards' numbers of contexts differ: run them with one configuration")
    return [shares[i % len(shares)][i // len(shares)] for i in range(count)]


def part_of(shard: str, node: str, meeting: str, address: str) -> Part:
    """Parse a part from the options of a command.

    Raises:
        ConfigError: if options are malformed or contradict each other.
    """
    own_shard, shards = _index_and_count("--shard", shard, whole=True) if shard else (None, 1)
    own_node, nodes = _index_and_count("--node", node, whole=False) if node else (0, 1)
    if shards > 1 and nodes > 1:
        raise ConfigError("--node", node, "a phase has shards or nodes, not both")
    if nodes > 1 and not (meeting and address):
        remedy = "several nodes need --meet HOST:PORT of node 0 and their own --address"
        raise ConfigError("--node", node, remedy)
    return Part(shards, own_shard if shards > 1 else None, nodes, own_node or 0, meeting, address)


def _index_and_count(option: str, text: str, *, whole: bool) -> tuple[int | None, int]:
    match = OF.fullmatch(text)
    if match is None or (match[1] == "all" and not whole):
        raise ConfigError(option, text, f"write 0/4 for the first of four{', all/4 to merge them' if whole else ''}")
    count = int(match[2])
    own = None if match[1] == "all" else int(match[1])
    if count < 1 or (own is not None and own >= count):
        raise ConfigError(option, text, "count from 0: 0/4 to 3/4")
    return own, count
