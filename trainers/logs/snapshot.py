"""The feedback phase of a run on logs: a snapshot of the logged answers, and what is learned and drawn from it.

A snapshot is taken once, so that rows which are amended or erased later do not change a run that has started. It holds
the newest answers that are old enough; with too few shown ads or clicks on either side of the held-out line the run
ends here, before it has cost anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mechanism.errors import InputError
from mechanism.statistics import Floats
from mechanism.types import Context
from streaming.lake import TrainingSet
from trainers.artifacts.store import to_json
from trainers.config import FeedbackConfig
from trainers.logs.answers import LoggedAnswer, Unusable, read_answers, select
from trainers.reward.training import MIN_SHOWN, Shown

LOGGED = "logged.parquet"
ABOUT = "about.json"
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


def take_snapshot(config: FeedbackConfig, folder: Path) -> str:
    """Write LOGGED and ABOUT from the lake into a phase's folder; return one line for the terminal.

    Raises:
        InputError: if there is no lake, or too few shown ads or clicks in it.
    """
    assert config.path is not None
    lake = TrainingSet(config.path, config.window_s)
    if not lake.exists:
        remedy = (
            "no lake is there: give the folder or URL that `llm-auction worker lake` writes to; shards of an earlier "
            "release are taken over by `llm-auction lake import`"
        )
        raise InputError("feedback.path", config.path, remedy)
    answers, unusable = read_answers(lake, config.since, config.until, config.held_out)
    kept, seen, young = select(answers, config)
    _check_enough(config, kept, unusable, young)
    write_snapshot(folder / LOGGED, kept, seen)
    shown, clicks = _count(kept)
    versions = lake.versions
    about = {
        "answers": len(kept),
        "held_out": sum(a.held_out for a in kept),
        "shown": shown,
        "clicks": clicks,
        "too_young": young,
        "beyond_the_newest": len(answers) - young - len(kept),
        "unfinished": unusable.unfinished,
        "without_ads": unusable.without_ads,
        "mean_seen": float(seen.mean()),
        "from": kept[0].answered_at.isoformat(),
        "to": kept[-1].answered_at.isoformat(),
        "watermark": versions.watermark.isoformat() if versions.watermark else None,
        "lake": {**msgspec.to_builtins(versions), "window_s": config.window_s},
        "digests": sorted({a.digest for a in kept}),
    }
    (folder / ABOUT).write_text(to_json(about, ABOUT), encoding="utf-8")
    return (
        f"{len(kept)} logged answers ({young} too young), {shown} ads shown, click rate {clicks / shown:.3f}, "
        f"{seen.mean():.0%} of the clicks can be there"
    )


def fitted_part(answers: Sequence[LoggedAnswer], seen: Floats) -> tuple[list[Shown], Floats]:
    """Return the answers that are not held out, and the share of their clicks that the log can hold by now."""
    use = [i for i, a in enumerate(answers) if not a.held_out]
    return [(answers[i].as_bid, answers[i].generation.answer, answers[i].clicks) for i in use], np.asarray(seen[use])


def _check_enough(config: FeedbackConfig, kept: Sequence[LoggedAnswer], unusable: Unusable, young: int) -> None:
    for side, held in (("to fit", False), ("held out", True)):
        if held and config.held_out == 0:
            continue
        shown, clicks = _count([a for a in kept if a.held_out == held])
        if shown < MIN_SHOWN or not 0 < clicks < shown:
            found = (
                f"{shown} shown ads with {clicks} clicks {side}, of {len(kept)} usable answers; {young} too young, "
                f"{unusable.unfinished} unfinished, {unusable.without_ads} without candidates"
            )
            remedy = f"at least {MIN_SHOWN} shown ads, some clicked and some not, are needed: wait for more traffic"
            if config.since is not None or config.until is not None:
                remedy += ", or widen feedback.since and feedback.until"
            raise InputError(f"{config.path}", found, remedy)


def _count(answers: Sequence[LoggedAnswer]) -> tuple[int, int]:
    """Return the numbers of shown ads and of clicks."""
    clicks = [hit for a in answers for hit in a.clicks.values()]
    return len(clicks), sum(clicks)


def write_snapshot(path: Path, answers: Sequence[LoggedAnswer], seen_N: Floats) -> None:
    """Write a Parquet file of answers with the share of their clicks that the log could hold, shape (answers,)."""
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
    """Read the answers and shares that `write_snapshot` wrote.

    Raises:
        InputError: if the file is not such a snapshot.
    """
    table = pq.read_table(path)
    if not table.schema.equals(SCHEMA):
        raise InputError(str(path), table.schema.names, "this is not a snapshot of logged answers of this version")
    decode = msgspec.json.Decoder(LoggedAnswer).decode
    answers = [decode(text) for text in table.column("answer").to_pylist()]
    return answers, np.asarray(table.column("seen").to_numpy(), np.float64)


class LoggedContexts:
    """Draws the contexts of a run from its snapshot, deterministic by seed, epoch and purpose.

    Training contexts come from answers that may be fitted to, validation contexts from those that are held out. Fresh
    bids are drawn from all bids of the log, whatever their order of magnitude: a log in which each campaign always bids
    the same does not teach a policy what a bid means.
    """

    def __init__(self, answers: Sequence[LoggedAnswer], seed: int, validation: int, *, fresh_bids: bool) -> None:
        self.seed = seed
        self.fresh_bids = fresh_bids
        self._training = [a.as_bid for a in answers if not a.held_out]
        self._held_out = [a.as_bid for a in answers if a.held_out]
        self._bids = np.array([c.bid for a in answers for c in a.as_bid.candidates], np.int64)
        order = np.random.default_rng([seed, 8]).permutation(len(self._held_out))
        self._validation = [self._held_out[i] for i in order[:validation]]

    def training(self, count: int, epoch: int, purpose: int) -> list[Context]:
        """Draw `count` contexts, every one once before any comes twice; without fresh bids at most every one once."""
        rng = np.random.default_rng([self.seed, epoch, purpose])
        if not self.fresh_bids:
            return [self._training[i] for i in rng.permutation(len(self._training))[:count]]
        chosen: list[Context] = []
        while len(chosen) < count and self._training:
            chosen += [self._training[i] for i in rng.permutation(len(self._training))]
        return [self.redraw(c, rng) for c in chosen[:count]]

    def validation(self) -> list[Context]:
        """Return the same contexts every time, under the advertisers' own bids."""
        return self._validation

    def redraw(self, context: Context, rng: np.random.Generator) -> Context:
        """Return the context under bids drawn from all bids of the log."""
        drawn = rng.choice(self._bids, size=len(context.candidates))
        return context.with_bids({c.ad.id: int(b) for c, b in zip(context.candidates, drawn, strict=True)})
