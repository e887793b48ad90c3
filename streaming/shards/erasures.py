"""Requests to erase a user's data, kept beside the shards until nothing is left that they have to hold back.

A request counts for readers at once, for the shards' files when their writer has cleaned them, and for the log when its
retention has passed: records cannot be taken out of its middle, but none of them can come back into a shard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from mechanism.errors import InputError
from streaming.shards.row import schema
from streaming.shards.store import ShardStore

SHARDS_WITHIN = timedelta(hours=24)
"""The stated time within which no shard file holds an erased user's data, while the feedback worker runs."""
SEGMENT = timedelta(days=1)
"""A log's records go by segments, which are written for a day at most: so much longer than the retention."""
_PSEUDONYM = re.compile("[0-9a-f]{32}")


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Whose data of auctions up to when; `log_until` is when the log has dropped the last of it, dead letters too."""

    user: str
    requested_at: datetime
    log_until: datetime

    @property
    def mark(self) -> str:
        """This request, apart from a later one for the same user."""
        return f"{self.user}@{self.requested_at.isoformat()}"

    def covers(self, user: str, answered_at: datetime) -> bool:
        """Whether it asks for the data of this auction."""
        return user == self.user and answered_at <= self.requested_at


def request(store: ShardStore, user: str, retention: timedelta, now: datetime | None = None) -> Erasure:
    """Asks for the erasure of all data of a pseudonym so far; asking again extends it to now. `retention` is that of
    the log's topics. Raises InputError for what is no pseudonym."""
    if not _PSEUDONYM.fullmatch(user):
        raise InputError("user", f"<{len(user)} characters>", "give a pseudonym: 32 hexadecimal digits")
    at = now or datetime.now(UTC)
    # Twice: what becomes a dead letter near the end of its time is kept once more.
    erasure = Erasure(user=user, requested_at=at, log_until=at + 2 * (retention + SEGMENT))
    store.put_erasure(user, msgspec.json.encode(erasure))
    return erasure


def requests(store: ShardStore) -> dict[str, Erasure]:
    """The requests in force, by pseudonym."""
    return {name: msgspec.json.decode(data, type=Erasure) for name, data in store.erasures().items()}


def held(url: str, user: str) -> int:
    """How many answers with a reader of that pseudonym the shards hold for whoever reads them."""
    from streaming.shards.reader import ShardReader  # which reads what is not erased, by this module

    found = 0
    for table in ShardReader(url).tables(columns=["reader"], usable=False):
        users = pc.struct_field(table.column("reader"), "user_id")
        found += pc.sum(pc.equal(users, user)).as_py() or 0
    return found


def cleaned(table: Any, erasures: Mapping[str, Erasure]) -> tuple[Any, int]:
    """A table with the columns occurred_at, reader and usable without the readers' parts that have to go, and how many
    rows lost theirs."""
    if not erasures or not table.num_rows:
        return table, 0
    users = pc.struct_field(table.column("reader"), "user_id")
    asked = pc.is_in(users, value_set=pa.array(list(erasures)))
    if not pc.any(asked).as_py():
        return table, 0
    times, known = table.column("occurred_at").to_pylist(), users.to_pylist()
    gone = [user in erasures and erasures[user].covers(user, at) for user, at in zip(known, times, strict=True)]
    if not any(gone):
        return table, 0
    kind = schema().field("reader").type
    mask = pa.array(gone)
    reader = pc.if_else(mask, pa.nulls(1, kind)[0], table.column("reader").combine_chunks())
    usable = pc.if_else(mask, False, table.column("usable"))
    for name, column in (("reader", reader), ("usable", usable)):
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table, sum(gone)
