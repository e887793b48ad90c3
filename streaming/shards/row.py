"""One row of a shard: an interaction and its newest judgement, with a column for each field of both.

`usable` (the reader's part is there) and `clicks` (ads clicked within the window) stand beside them, so that they can
be counted without reading more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa

from streaming.events import Interaction, JudgedAd, Judgement
from streaming.shards.arrow import columns, plainers, struct

SCHEMA_VERSION = 1
_JUDGEMENT = {
    "judged_at": "occurred_at",
    "window_s": "window_s",
    "judge": "judge",
    "judge_version": "judge_version",
    "revision": "revision",
    "ads": "ads",
    "answer_quality": "answer_quality",
}
"""Columns of the judgement, by their fields; what it shares with its interaction stands once."""


@dataclass(frozen=True, slots=True)
class Row:
    """A judged interaction. `interaction.context()`, `.generation()` and `.bids()` give a trainer's input again."""

    interaction: Interaction
    judgement: Judgement

    @property
    def auction_id(self) -> str:
        """The row's identity: of several, the newest revision counts."""
        return self.interaction.auction_id

    @property
    def day(self) -> date:
        """The day of the auction, UTC."""
        return self.interaction.occurred_at.date()

    @property
    def clicks(self) -> int:
        """Ads that were clicked."""
        return sum(ad.clicked for ad in self.judgement.ads)

    @property
    def usable(self) -> bool:
        """Whether a trainer can use it: the reader's part is there."""
        return self.interaction.reader is not None

    def judged(self) -> dict[str, JudgedAd]:
        """Clicks and grades by shown ad."""
        return {ad.ad_id: ad for ad in self.judgement.ads}

    def erased(self) -> Row:
        """Without the reader's part."""
        return replace(self, interaction=msgspec.structs.replace(self.interaction, reader=None))


@cache
def schema() -> Any:
    """The columns of a shard."""
    judged = columns(Judgement)
    found = columns(Interaction) | {name: judged[field] for name, field in _JUDGEMENT.items()}
    found |= {"clicks": pa.int32(), "usable": pa.bool_()}
    return pa.schema(list(found.items()), {"llm_auction.shard_version": str(SCHEMA_VERSION)})


def to_table(rows: Iterable[Row]) -> Any:
    """Rows as an Arrow table."""
    listed = list(rows)
    found: dict[str, list[Any]] = {
        name: [plain(getattr(row.interaction, name)) for row in listed] for name, plain in plainers(Interaction).items()
    }
    judged = plainers(Judgement)
    for name, field in _JUDGEMENT.items():
        plain = judged[field]
        found[name] = [plain(getattr(row.judgement, field)) for row in listed]
    found["clicks"] = [row.clicks for row in listed]
    found["usable"] = [row.usable for row in listed]
    kinds = schema()
    return pa.table([pa.array(found[field.name], field.type) for field in kinds], schema=kinds)


def from_table(table: Any) -> Iterator[Row]:
    """The rows of an Arrow table with all columns."""
    for batch in table.to_batches(max_chunksize=1_000):
        for told in batch.to_pylist():
            shared = {"auction_id": told["auction_id"], "answered_at": told["occurred_at"]}
            judgement = {field: told[name] for name, field in _JUDGEMENT.items()} | shared
            yield Row(struct(Interaction, told), struct(Judgement, judgement))
