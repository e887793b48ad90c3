"""How old a click is when a reader of the shards can see it, watched from outside: by polling the manifests."""

from __future__ import annotations

import time
from datetime import datetime

from streaming.shards.store import ShardStore


class Ages:
    """Ages of the clicks in shards that have appeared since the last `look`."""

    def __init__(self, shards: str) -> None:
        self._store = ShardStore(shards)
        self._seen: set[str] = set()
        self._clicks: set[tuple[str, str]] = set()
        self.seconds: list[float] = []

    def look(self) -> None:
        """Reads what is new. A click counts once, when its first row can be read."""
        for partition in self._store.partitions():
            for shard in self._store.manifest(partition).shards:
                if shard.path not in self._seen:
                    self._seen.add(shard.path)
                    # Merged shards hold what was seen before.
                    if shard.level == 0:
                        self._take(self._store.table(shard, ["auction_id", "occurred_at", "ads"]).to_pylist())

    def _take(self, rows: list[dict[str, object]]) -> None:
        now = time.time()
        for row in rows:
            auction, answered_at = row["auction_id"], row["occurred_at"]
            assert isinstance(answered_at, datetime)
            for ad in row["ads"]:  # type: ignore[attr-defined]
                if ad["clicked_after_s"] is not None and (auction, ad["ad_id"]) not in self._clicks:
                    self._clicks.add((str(auction), ad["ad_id"]))
                    self.seconds.append(now - answered_at.timestamp() - ad["clicked_after_s"])
