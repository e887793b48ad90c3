"""Writing one partition's shards: rows and offsets in one step, small shards merged, erased data taken out.

Only the owner of the partition writes; another one that still believes to be it is fenced off by the manifest.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from streaming.shards.erasures import Erasure, cleaned
from streaming.shards.manifest import Manifest, Progress, Removed, Shard, Span, Totals, merged
from streaming.shards.reader import newest
from streaming.shards.row import Row, from_table, to_table
from streaming.shards.store import ShardStore

FAN = 16
"""So many shards of one day and level become one of the next level."""
LEVELS = 3
GRACE = timedelta(minutes=15)
"""How long readers may take with a manifest before files that were replaced since are removed."""
ABANDONED = timedelta(days=1)
"""A file that no manifest lists by then was left by a writer that died."""
LISTED = timedelta(hours=6)
"""How often such files are looked for: all names have to be listed."""
ERASE_S = 20.0
_STAMP = "%Y%m%dT%H%M%S"


class PartitionWriter:
    """Writes one partition. Every method raises Fenced where another writer was quicker, and OSError (or what the
    object store raises) where nothing can be written; nothing was changed then."""

    def __init__(self, store: ShardStore, partition: int) -> None:
        self._store = store
        self.manifest: Manifest = store.manifest(partition)
        self._listed_at: datetime | None = None
        self._clean: set[str] = set()
        self._clean_of: tuple[str, ...] = ()

    def append(self, rows: Sequence[Row], judgements: Span, progress: Progress, added: Totals) -> None:
        """Writes rows that came from these judgements' offsets, with how far the topics are in now and what that adds
        to the totals."""
        ordered = sorted(rows, key=lambda row: row.day)
        shards = [
            self._store.put_shard(self.manifest.partition, to_table(group), 0, [judgements])
            for _, group in groupby(ordered, key=lambda row: row.day)
        ]
        self._put(shards=(*self.manifest.shards, *shards), progress=progress, totals=self.manifest.totals + added)

    def find(self, auctions: Collection[str]) -> dict[str, Row]:
        """The newest rows of these auctions, as far as they are in the shards."""
        found: dict[str, Row] = {}
        wanted = sorted(set(auctions))
        for shard in self.manifest.shards:
            asked = [auction for auction in wanted if shard.lowest <= auction <= shard.highest]
            if not asked:
                continue
            table = self._store.table(shard)
            for row in from_table(table.filter(pc.is_in(table.column("auction_id"), value_set=pa.array(asked)))):
                known = found.get(row.auction_id)
                if known is None or known.judgement.revision < row.judgement.revision:
                    found[row.auction_id] = row
        return found

    def merge(self) -> int:
        """Merges small shards of a day where there are enough of them; how many went. Older revisions of an auction
        that stand beside newer ones go, too."""
        went = 0
        for level in range(LEVELS):
            for day in sorted({shard.day for shard in self.manifest.shards if shard.level == level}):
                small = [s for s in self.manifest.shards if s.day == day and s.level == level]
                if len(small) >= FAN:
                    self._merge(small, level + 1)
                    went += len(small)
        return went

    def erase(self, erasures: Mapping[str, Erasure], within_s: float = ERASE_S) -> int:
        """Takes the readers' parts that have to go out of the shards, for about `within_s` seconds; how many rows lost
        theirs. A later call goes on; the manifest names the requests once every shard was looked at."""
        marks = tuple(sorted(erasure.mark for erasure in erasures.values()))
        if marks == self.manifest.erased:
            return 0
        if self._clean_of != marks:
            self._clean, self._clean_of = set(), marks
        fresh = {user: erasure for user, erasure in erasures.items() if erasure.mark not in self.manifest.erased}
        until = time.monotonic() + within_s
        shards, old, rows = list(self.manifest.shards), [], 0
        for i, shard in enumerate(shards):
            if time.monotonic() >= until:
                break
            if shard.path not in self._clean:
                shards[i], lost = self._cleaned(shard, fresh)
                self._clean.add(shards[i].path)
                rows += lost
                old += [shard] if lost else []
        done = all(shard.path in self._clean for shard in shards)
        if old or done:
            totals = self.manifest.totals + Totals(erased=rows)
            erased = marks if done else self.manifest.erased
            self._put(shards=tuple(shards), totals=totals, erased=erased, removed=self._with_removed(old))
        return rows

    def sweep(self, now: datetime, grace: timedelta = GRACE) -> int:
        """Removes files that were replaced long enough ago, and what killed writers left; how many."""
        left: list[str] = []
        if self._listed_at is None or now - self._listed_at >= LISTED:
            self._listed_at = now
            left = [path for path in self._store.files(self.manifest.partition) if _age(path, now) > ABANDONED]
        # Looked at after the files, so that a file which was listed in between is not taken for abandoned.
        current = self._store.manifest(self.manifest.partition) if left else self.manifest
        known = {shard.path for shard in current.shards} | {removed.path for removed in current.removed}
        due = [removed for removed in self.manifest.removed if now - removed.at >= grace]
        for path in [removed.path for removed in due] + [path for path in left if path not in known]:
            self._store.remove(path)
        if due:
            self._put(removed=tuple(removed for removed in self.manifest.removed if removed not in due))
        return len(due)

    def _merge(self, small: list[Shard], level: int) -> None:
        together = pa.concat_tables([self._store.table(shard) for shard in small])
        table = newest(together)
        judgements = merged(span for shard in small for span in shard.judgements)
        shard = self._store.put_shard(self.manifest.partition, table, level, judgements)
        kept = [other for other in self.manifest.shards if other not in small]
        totals = self.manifest.totals + Totals(superseded=together.num_rows - table.num_rows)
        self._put(shards=(*kept, shard), totals=totals, removed=self._with_removed(small))

    def _cleaned(self, shard: Shard, erasures: Mapping[str, Erasure]) -> tuple[Shard, int]:
        asked = {user: erasure for user, erasure in erasures.items() if shard.first <= erasure.requested_at}
        if not asked or not shard.usable:
            return shard, 0
        narrow = self._store.table(shard, ["occurred_at", "reader", "usable"])
        if not cleaned(narrow, asked)[1]:
            return shard, 0
        table, lost = cleaned(self._store.table(shard), asked)
        return self._store.put_shard(self.manifest.partition, table, shard.level, shard.judgements), lost

    def _with_removed(self, old: Iterable[Shard]) -> tuple[Removed, ...]:
        now = datetime.now(UTC)
        return (*self.manifest.removed, *(Removed(shard.path, now) for shard in old))

    def _put(self, **changes: Any) -> None:
        self.manifest = self._store.put_manifest(msgspec.structs.replace(self.manifest, **changes))


def _age(path: str, now: datetime) -> timedelta:
    """By the time in a shard's name."""
    stamp = path.rsplit("/", 1)[-1].split("-")[1]
    return now - datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
