"""Judged interactions of the log's shards as logged answers, and their snapshot in a run's feedback phase.

A snapshot is taken once, so that rows which are amended or erased later do not change a run under its own feet. Which
answers are kept from fitting is decided by the auction's id alone: the same for every run over the same log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mechanism.errors import InputError
from mechanism.statistics import Floats
from mechanism.types import AdId, Context, Fault, Generation, Micros
from streaming.events import Sampling
from streaming.shards import Row, ShardReader
from trainers.config import FeedbackConfig
from trainers.logs.delays import DelayDistribution, estimate_delays

PART = 10_000
"""Answers are kept from fitting by the ten-thousandth that their auction's id falls into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedAnswer:
    """One served answer. `context` has the bids as the policy saw them, `bids` as they were made; `clicked_after_s`
    holds the clicked ads and how long after the answer; `watched_s` is how long clicks could come and be joined so far.
    `digest` names the weights that wrote it, `generation` has no token ids (no event holds them)."""

    context: Context
    bids: Mapping[AdId, Micros]
    generation: Generation
    clicked_after_s: Mapping[AdId, float]
    watched_s: float
    answered_at: datetime
    digest: str
    sampling: Sampling
    held_out: bool

    @property
    def clicks(self) -> dict[AdId, bool]:
        """Clicks by shown ad."""
        return {ad: ad in self.clicked_after_s for ad in self.generation.answer.shown()}

    @property
    def as_bid(self) -> Context:
        """The context under the bids as they were made: what a policy shall learn to answer."""
        return self.context.with_bids(self.bids)


@dataclass(frozen=True, slots=True)
class Unusable:
    """Rows that give no training example, by reason; nothing is dropped silently."""

    unfinished: int = 0
    """The policy did not end the answer: cut, cancelled or failed."""
    without_ads: int = 0
    """There was no candidate, and so no auction."""


def read_answers(
    reader: ShardReader, since: datetime | None, until: datetime | None, held_out: float
) -> tuple[list[LoggedAnswer], Unusable]:
    """The usable answers of a time, oldest first, and how many were not."""
    observed = reader.watermark()
    answers: list[LoggedAnswer] = []
    unfinished = without_ads = 0
    for row in reader.rows(since, until):
        generation, context = row.interaction.generation(), row.interaction.context()
        if generation is None or context is None or row.interaction.outcome != "answered":
            unfinished += 1
        elif not context.candidates:
            without_ads += 1
        else:
            answers.append(_answer(row, context, generation, observed, held_out))
    answers.sort(key=lambda a: (a.answered_at, a.context.id))
    return answers, Unusable(unfinished, without_ads)


def delay_distribution(answers: Iterable[LoggedAnswer]) -> DelayDistribution:
    """F over all clicks of the answers."""
    pairs = [(delay, a.watched_s) for a in answers for delay in a.clicked_after_s.values()]
    return estimate_delays([d for d, _ in pairs], [w for _, w in pairs])


def select(answers: Sequence[LoggedAnswer], config: FeedbackConfig) -> tuple[list[LoggedAnswer], Floats, int]:
    """The newest `config.contexts` answers old enough to tell something, the share of their clicks that can be there
    (1 without `delay_correction`), and how many were too young."""
    seen = delay_distribution(answers).seen([a.watched_s for a in answers])
    if not config.delay_correction:
        return list(answers[-config.contexts :]), np.ones(min(len(answers), config.contexts)), 0
    old = [i for i, share in enumerate(seen) if share >= config.min_seen]
    kept = old[-config.contexts :]
    return [answers[i] for i in kept], np.asarray(seen[kept]), len(answers) - len(old)


def held_out_by(auction_id: str, share: float) -> bool:
    """Whether an auction is kept from fitting: a fixed share of all ids."""
    return crc32(auction_id.encode()) % PART < share * PART


SCHEMA = pa.schema(
    [
        pa.field("auction_id", pa.string(), nullable=False),
        pa.field("answered_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("held_out", pa.bool_(), nullable=False),
        pa.field("seen", pa.float64(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
    ],
    metadata={"format": "llm-auction logged answers, version 1"},
)


def write_snapshot(path: Path, answers: Sequence[LoggedAnswer], seen_N: Floats) -> None:
    """Writes a Parquet file of answers with the share of their clicks that could be there."""
    encode = msgspec.json.Encoder().encode
    rows = [
        {
            "auction_id": a.context.id,
            "answered_at": a.answered_at,
            "held_out": a.held_out,
            "seen": float(share),
            "answer": encode(a).decode(),
        }
        for a, share in zip(answers, seen_N, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, compression="zstd")


def read_snapshot(path: Path) -> tuple[list[LoggedAnswer], Floats]:
    """Reads what `write_snapshot` wrote. Raises InputError for another file."""
    table = pq.read_table(path)
    if not table.schema.equals(SCHEMA):
        raise InputError(str(path), table.schema.names, "this is not a snapshot of logged answers of this version")
    decode = msgspec.json.Decoder(LoggedAnswer).decode
    answers = [decode(text) for text in table.column("answer").to_pylist()]
    return answers, np.asarray(table.column("seen").to_numpy(), np.float64)


def _answer(
    row: Row, context: Context, generation: Generation, observed: datetime | None, held_out: float
) -> LoggedAnswer:
    event, judgement = row.interaction, row.judgement
    told = replace(generation.answer, faults=tuple(Fault(kind, 0) for kind in event.faults))
    clicked = {ad.ad_id: float(ad.clicked_after_s or 0.0) for ad in judgement.ads if ad.clicked}
    until = max(observed or judgement.occurred_at, judgement.occurred_at).astimezone(UTC)
    watched = min(judgement.window_s, max(0.0, (until - event.occurred_at).total_seconds()))
    return LoggedAnswer(
        context=context,
        bids=event.bids(),
        generation=replace(generation, answer=told),
        clicked_after_s=clicked,
        # a click is proof that its moment was watched, whatever the clocks say
        watched_s=max([watched, *clicked.values()]),
        answered_at=event.occurred_at,
        digest=event.model_digest,
        sampling=event.sampling,
        held_out=held_out_by(event.auction_id, held_out),
    )
