"""The feedback phase of a run on logs: a snapshot of the logged answers, and what may be learned from it.

It takes the newest answers that are old enough to tell something. Enough of them must be left on both sides of the
held-out line, or the run ends here, before anything was spent on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mechanism.errors import InputError
from mechanism.statistics import Floats
from streaming.shards import ShardReader
from trainers.config import FeedbackConfig
from trainers.logs.answers import LoggedAnswer, Unusable, read_answers, select, write_snapshot
from trainers.reward.training import MIN_SHOWN, Shown

LOGGED = "logged.parquet"
ABOUT = "about.json"


def take_snapshot(config: FeedbackConfig, folder: Path) -> str:
    """Reads the log's shards and writes LOGGED and ABOUT into a phase's folder; returns what it found in a line.

    Raises InputError where there are no shards, or too few shown ads or clicks in them.
    """
    assert config.path is not None
    reader = ShardReader(config.path)
    if not reader.manifests():
        remedy = "no shards are there: give the folder or URL that `llm-auction worker feedback` writes to"
        raise InputError("feedback.path", config.path, remedy)
    answers, unusable = read_answers(reader, config.since, config.until, config.held_out)
    kept, seen, young = select(answers, config)
    _check_enough(config, kept, unusable, young)
    write_snapshot(folder / LOGGED, kept, seen)
    shown, clicks = _count(kept)
    watermark = reader.watermark()
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
        "watermark": watermark.isoformat() if watermark else None,
        "digests": sorted({a.digest for a in kept}),
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return (
        f"{len(kept)} logged answers ({young} too young), {shown} ads shown, click rate {clicks / shown:.3f}, "
        f"{seen.mean():.0%} of the clicks can be there"
    )


def fitted_part(answers: Sequence[LoggedAnswer], seen: Floats) -> tuple[list[Shown], Floats]:
    """What the reward model is fitted to: answers that are not held out, and the share of their clicks that can be
    there."""
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
    """Shown ads and clicks."""
    clicks = [hit for a in answers for hit in a.clicks.values()]
    return len(clicks), sum(clicks)
