"""What the triggers decide on: the log since the last retraining, and its drift from what the serving model learned.

Reading is bounded: counts come from single columns, and only the newest rows are read whole.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from inference.encoder import shared_encoder
from mechanism.errors import AuctionError, InputError
from mechanism.statistics import Interval
from streaming.lake import TrainingSet
from trainers.artifacts.registry import ModelEntry
from trainers.artifacts.run_directory import RunDirectory
from trainers.artifacts.sampled import read_sampled
from trainers.config import RetrainConfig
from trainers.gates.clicks import predicted_clicks, predictor_figures
from trainers.irpo.answer_phases import ANSWERS
from trainers.logs.answers import LoggedAnswer, delay_distribution, read_answers
from trainers.logs.snapshot import LOGGED, read_snapshot
from trainers.retraining.attempts import Attempts, new_since
from trainers.retraining.triggers import Observed
from trainers.reward.model import PCTRModel


def observe(lake: TrainingSet, serving: ModelEntry, attempts: Attempts, config: RetrainConfig) -> Observed:
    """Observe the log since the last of `attempts`, as `observe_since`."""
    last = attempts.last()
    last_at = last.begun.begun_at if last else serving.log_until
    return observe_since(lake, serving, new_since(attempts, serving.log_until), last_at, config)


def observe_since(
    lake: TrainingSet, serving: ModelEntry, since: datetime | None, last_at: datetime | None, config: RetrainConfig
) -> Observed:
    """Observe the auctions from `since` on; the last retraining began at `last_at`.

    Drift is measured only where there is enough new traffic to retrain at all, and too little to retrain by number.
    """
    triggers = config.triggers
    new, watermark = lake.count(since), lake.watermark()
    calibration = population = None
    if triggers.at_least <= new < triggers.new_interactions:
        newest = _newest(lake, since, triggers.drift.window)
        if newest and triggers.drift.calibration is not None:
            calibration = _calibration(newest, serving)
        if newest and triggers.drift.population is not None:
            population = _population(newest, serving)
    return Observed(new=new, last_at=last_at, watermark=watermark, calibration=calibration, population=population)


def serving_predictor(serving: ModelEntry) -> PCTRModel | None:
    """Load the click predictor that the serving model learned from; None where its run is gone or had none."""
    if serving.run is None or serving.epoch is None:
        return None
    try:
        phase = RunDirectory(serving.run).phase("reward_model", serving.epoch)
        return PCTRModel.load(phase.fetch(), shared_encoder().encode) if phase.finished() else None
    except AuctionError:
        # An oracle's run, or a folder that was cleared away: nothing to compare with.
        return None


def population_shift(before_ND: NDArray[np.float32], now_MD: NDArray[np.float32]) -> float:
    """Measure how far the mean of embeddings moved: squared distance of the means over the earlier rows' variance.

    The distance that chance alone causes between samples of N and M rows is subtracted, and the result is at least 0.
    At 1 the mean has moved as far as a single query typically lies from the mean.

    Raises:
        InputError: if either side has fewer than two rows.
    """
    if len(before_ND) < 2 or len(now_MD) < 2:
        raise InputError("embeddings", (len(before_ND), len(now_MD)), "give at least two questions of each period")
    before, now = before_ND.astype(np.float64), now_MD.astype(np.float64)
    variance = float(before.var(axis=0, ddof=1).sum())
    chance = variance / len(before) + float(now.var(axis=0, ddof=1).sum()) / len(now)
    distance = float(((before.mean(axis=0) - now.mean(axis=0)) ** 2).sum())
    return max(0.0, (distance - chance) / variance) if variance > 0 else float(distance > 1e-12)


def _newest(lake: TrainingSet, since: datetime | None, count: int) -> list[LoggedAnswer]:
    """Read the newest `count` usable answers from `since` on."""
    columns = [t.column("occurred_at").to_pylist() for t in lake.tables(since, columns=("occurred_at",))]
    times = sorted(moment for column in columns for moment in column)
    if not times:
        return []
    answers, _ = read_answers(lake, times[-min(count, len(times))], None, 0.0)
    return answers[-count:]


def _calibration(newest: list[LoggedAnswer], serving: ModelEntry) -> Interval | None:
    """Return clicks over expected clicks, of ads shown long enough ago for clicks to have come."""
    predictor = serving_predictor(serving)
    if predictor is None:
        return None
    seen = delay_distribution(newest).seen([a.watched_s for a in newest])
    old = [i for i, share in enumerate(seen) if share > 0]
    answers = [newest[i] for i in old]
    expected = predictor.probabilities([(a.as_bid, a.generation.answer) for a in answers])
    clicks = [a.clicks for a in answers]
    rows = predicted_clicks(clicks, expected, None, seen[old].tolist(), [True] * len(old))
    figures = predictor_figures(rows, seed=len(answers))
    return figures.calibration if figures else None


def _population(newest: list[LoggedAnswer], serving: ModelEntry) -> float | None:
    known = _learned_queries(serving, len(newest))
    if len(known) < 2 or len(newest) < 2:
        return None
    encode = shared_encoder().encode
    return population_shift(encode(known), encode([a.context.query for a in newest]))


def _learned_queries(serving: ModelEntry, most: int) -> list[str]:
    """Return up to `most` queries of the feedback that the serving model learned from, drawn at random."""
    if serving.run is None or serving.epoch is None:
        return []
    try:
        phase = RunDirectory(serving.run).phase("feedback", serving.epoch)
        if not phase.finished():
            return []
        folder = phase.fetch()
        if (folder / LOGGED).is_file():
            queries = [a.context.query for a in read_snapshot(folder / LOGGED)[0]]
        else:
            queries = [item.context.query for item in read_sampled(folder / ANSWERS)]
    except AuctionError:
        return []
    order = np.random.default_rng(0).permutation(len(queries))[:most]
    return [queries[i] for i in order]
