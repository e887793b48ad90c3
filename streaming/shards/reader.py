"""Reading the shards, by columns or as rows: between times, the newest revision of every auction, nobody who asked out.

It reads the manifests once and what they list then; a later call sees what was written meanwhile. Memory: one day of
one partition at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mechanism.errors import InputError
from streaming.shards.erasures import Erasure, cleaned, requests
from streaming.shards.manifest import Manifest, Shard, Totals
from streaming.shards.row import Row, from_table, schema
from streaming.shards.store import ShardStore

_NEEDED = ("auction_id", "occurred_at", "revision", "usable")
_EARLIEST, _LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class ShardReader:
    """Reads one folder of shards. `url` is what the feedback worker writes to."""

    def __init__(self, url: str) -> None:
        self._store = ShardStore(url)

    def manifests(self) -> tuple[Manifest, ...]:
        """The newest of each partition."""
        return tuple(self._store.manifest(partition) for partition in self._store.partitions())

    def totals(self) -> Totals:
        """Counts over all partitions, since the beginning."""
        return sum((manifest.totals for manifest in self.manifests()), Totals())

    def watermark(self) -> datetime | None:
        """The event time up to which every interaction that had arrived is in; None before the first of any
        partition."""
        marks = [manifest.progress.watermark for manifest in self.manifests()]
        known = [mark for mark in marks if mark is not None]
        return min(known) if known and len(known) == len(marks) else None

    def count(self, since: datetime | None = None, until: datetime | None = None) -> int:
        """Usable judged interactions whose auction was from `since` to before `until`."""
        return sum(table.num_rows for table in self.tables(since, until, columns=("auction_id",)))

    def tables(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
        usable: bool = True,
    ) -> Iterator[Any]:
        """Arrow tables by day and partition of the auctions from `since` to before `until` (UTC), with all columns or
        those named. With `usable`, only rows that a trainer can use. Raises InputError for a column that is not
        there, and where a file is missing."""
        wanted = list(schema().names if columns is None else columns)
        if unknown := sorted(set(wanted) - set(schema().names)):
            raise InputError("columns", unknown[0], f"give some of {', '.join(schema().names)}")
        low, high = since or _EARLIEST, until or _LATEST
        manifests = self.manifests()
        erasures = requests(self._store)
        listed = [
            (shard.day, manifest.partition, shard)
            for manifest in manifests
            for shard in manifest.shards
            if shard.last >= low and shard.first < high
        ]
        pending = {m.partition: {u: e for u, e in erasures.items() if e.mark not in m.erased} for m in manifests}
        listed.sort(key=lambda entry: (entry[0], entry[1], entry[2].path))
        for (_, partition), group in groupby(listed, key=lambda entry: entry[:2]):
            table = self._read([shard for _, _, shard in group], wanted, pending[partition])
            table = table.filter((pc.field("occurred_at") >= low) & (pc.field("occurred_at") < high))
            table = newest(table)
            if usable:
                table = table.filter(pc.field("usable"))
            if table.num_rows:
                yield table.select(wanted)

    def rows(
        self, since: datetime | None = None, until: datetime | None = None, *, usable: bool = True
    ) -> Iterator[Row]:
        """As `tables`, row by row, by day and partition in the order of the auctions."""
        for table in self.tables(since, until, usable=usable):
            yield from from_table(table)

    def verify(self) -> int:
        """Reads every shard and compares its digest; how many there are. Raises InputError for the first damaged."""
        shards = [shard for manifest in self.manifests() for shard in manifest.shards]
        for shard in shards:
            self._store.table(shard, ["auction_id"], check=True)
        return len(shards)

    def _read(self, shards: list[Shard], wanted: list[str], erasures: dict[str, Erasure]) -> Any:
        extra = [*_NEEDED, "reader"] if erasures else _NEEDED
        names = list(dict.fromkeys([*wanted, *extra]))
        tables = [cleaned(self._store.table(shard, names), erasures)[0] for shard in shards]
        return pa.concat_tables(tables)


def newest(table: Any) -> Any:
    """Of each auction the row with the highest revision, in the order of the auctions' times."""
    if not table.num_rows:
        return table
    table = table.sort_by([("occurred_at", "ascending"), ("auction_id", "ascending"), ("revision", "ascending")])
    ids = table.column("auction_id").to_numpy(zero_copy_only=False)
    last = np.append(ids[1:] != ids[:-1], True)
    return table.filter(last) if not last.all() else table
