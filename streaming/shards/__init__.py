"""D_on, the judged interactions, as Parquet shards on any fsspec URL: written once, read by trainers."""

from streaming.shards.manifest import Manifest, Shard, Totals
from streaming.shards.reader import ShardReader
from streaming.shards.row import Row

__all__ = ["Manifest", "Row", "Shard", "ShardReader", "Totals"]
