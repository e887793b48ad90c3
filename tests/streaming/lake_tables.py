"""Rows for tests of the lake, written as the lake worker writes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from streaming.codec import encode, topic_of
from streaming.events import AnyEvent, GradedAd, Interaction, Judgement
from streaming.lake.schema import STORED, Stored
from streaming.lake.store import Lake
from streaming.lake.table import LakeTable, Mark

LOG = "a-log"


def judgement(event: Interaction, after_s: float = 1.0, quality: float = 0.75) -> Judgement:
    return Judgement(
        occurred_at=event.occurred_at + timedelta(seconds=after_s),
        auction_id=event.auction_id,
        answered_at=event.occurred_at,
        judge="rules",
        judge_version="1",
        ads=tuple(GradedAd(ad_id=shown.ad_id, relevance=0.5, nativeness=0.25) for shown in event.shown),
        answer_quality=quality,
    )


def stored(events: Sequence[AnyEvent], start: int = 0, partition: int = 0) -> list[Stored]:
    return [Stored(e, encode(e), e.occurred_at, LOG, partition, start + n) for n, e in enumerate(events)]


def append(url: str, *events: AnyEvent, partition: int = 0, watermark: datetime | None = None) -> None:
    """Append events to their tables, after what is there."""
    for topic in STORED:
        own = [event for event in events if topic_of(event) == topic]
        table = LakeTable(Lake(url), topic, LOG)
        start = table.own([partition]).get(partition, 0)
        table.append(stored(own, start, partition), {partition: Mark(start + len(own), watermark)})
