"""The records of a training set: its snapshot, its totals, and its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from mechanism.types import AdId
from streaming.events import Interaction, Judgement
from streaming.lake.arrow import struct

_JUDGEMENT = {
    "auction_id": "auction_id",
    "answered_at": "occurred_at",
    "occurred_at": "judged_at",
    "judge": "judge",
    "judge_version": "judge_version",
    "ads": "grades",
    "answer_quality": "answer_quality",
}
"""The column of the query for each field of a judgement."""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the lake: the version of each table (None if it did not exist), and their watermark."""

    interactions: int | None
    clicks: int | None
    judgements: int | None
    watermark: datetime | None = None


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of answers, judged answers, answers that a trainer can use, and clicked ads in all answers."""

    answers: int = 0
    judged: int = 0
    usable: int = 0
    clicks: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One answer with its judgement and clicks. `clicked_after_s`: seconds to the first click on each clicked ad."""

    interaction: Interaction
    judgement: Judgement | None
    clicked_after_s: Mapping[AdId, float]
    window_s: float

    @property
    def auction_id(self) -> str:
        """The answer's identity."""
        return self.interaction.auction_id

    @property
    def usable(self) -> bool:
        """Whether a trainer can use the answer: it has the reader's part and was judged."""
        return self.interaction.reader is not None and self.judgement is not None


def to_row(values: dict[str, Any], window_s: float) -> Row:
    """Convert a row of the query, as `pyarrow` returned it."""
    judgement = None
    if values["judge"] is not None:
        fields = {name: values[column] for name, column in _JUDGEMENT.items()}
        judgement = struct(Judgement, fields)
    clicked = {click["ad_id"]: click["clicked_after_s"] for click in values["clicks"] or ()}
    return Row(struct(Interaction, values), judgement, clicked, window_s)
