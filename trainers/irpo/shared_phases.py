"""Phases over contexts, which several processes can divide among them: the mechanism, not what the phases do.

Shard I of N works on every Nth context, in a folder of its own, without the run's lock. The last shard to finish merges
all of them, in the order of the contexts, into what one process would have published. The contexts are the same for any
number of shards; what a shard draws at random beyond them comes from a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from trainers.artifacts.run_directory import Phase
from trainers.irpo.session import Session
from trainers.optimisation.sharding import ALONE, Part, merged, shards_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SharedPhase(Generic[T]):
    """A phase over contexts. T is what it makes of one context.

    `work` (session, epoch, part) does the part's share; `write` and `read` keep a share in a folder; `publish`
    (session, epoch, items of all contexts) makes the phase's result and returns one line for the terminal.
    """

    name: str
    work: Callable[[Session, int, Part], Sequence[T]]
    write: Callable[[Path, Sequence[T]], None]
    read: Callable[[Path], Sequence[T]]
    publish: Callable[[Session, int, Sequence[T]], str]

    def run(self, session: Session, epoch: int) -> str:
        """Do the whole phase in this process."""
        return self.publish(session, epoch, self.work(session, epoch, ALONE))

    def run_shard(self, session: Session, epoch: int) -> str:
        """Do this process's shard and publish it by itself."""
        part = session.part
        share = self.work(session, epoch, part)
        with self._shard(session, epoch, part).open() as folder:
            self.write(folder, share)
        return f"shard {part.shard} of {part.shards}: {len(share)} contexts"

    def merge(self, session: Session, epoch: int) -> str:
        """Merge the shards. InputError if one is not finished, ConfigError if they do not belong together."""
        shards = [self._shard(session, epoch, part) for part in shards_of(session.part.shards)]
        found = self.publish(session, epoch, merged([self.read(shard.fetch()) for shard in shards]))
        return f"{found}, from {len(shards)} shards"

    def shard_finished(self, session: Session, epoch: int, part: Part) -> bool:
        """Return whether a shard is published."""
        return self._shard(session, epoch, part).finished()

    def remove_chunks(self, session: Session, epoch: int, part: Part = ALONE) -> None:
        """Remove the answers kept by `answers_in_chunks` for a part that is published."""
        self._shard(session, epoch, part).remove_chunks()

    def _shard(self, session: Session, epoch: int, part: Part) -> Phase:
        return session.run.phase(part.folder(self.name), epoch)


@contextmanager
def one_at_a_time(session: Session, work: str) -> Iterator[None]:
    """Let one shard at a time do a piece of work that all of them need done once; the others wait for it."""
    with session.run.store.hold(f"{work}.once", wait_s=math.inf):
        yield
