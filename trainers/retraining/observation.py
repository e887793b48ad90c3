"""What the triggers are asked about: the log since the last retraining, and how it differs from what the serving model
learned from. Reading is kept in bounds: counts by columns, and of the rows only the newest."""

from __future__ import annotations

from datetime import datetime

import numpy as np

from inference.encoder import shared_encoder
from mechanism.errors import AuctionError
from mechanism.statistics import Interval
from streaming.shards import ShardReader
from trainers.artifacts.records import read_sampled
from trainers.artifacts.registry import ModelEntry
from trainers.artifacts.run_directory import RunDirectory
from trainers.config import RetrainConfig
from trainers.gates.clicks import foretold, predictor_figures
from trainers.logs.answers import LoggedAnswer, delay_distribution, read_answers, read_snapshot
from trainers.logs.feedback import LOGGED
from trainers.retraining.attempts import Attempts, new_since
from trainers.retraining.population import population_shift
from trainers.retraining.triggers import Observed
from trainers.reward.model import PCTRModel


def observe(reader: ShardReader, serving: ModelEntry, attempts: Attempts, config: RetrainConfig) -> Observed:
    """What there is to decide on. Drift is looked at only where enough is new for a retraining at all, and too little
    for one by number."""
    last = attempts.last()
    last_at = last.begun.begun_at if last else serving.log_until
    return observe_since(reader, serving, new_since(attempts, serving.log_until), last_at, config)


def observe_since(
    reader: ShardReader, serving: ModelEntry, since: datetime | None, last_at: datetime | None, config: RetrainConfig
) -> Observed:
    """The same where others keep count: auctions from `since` on are new, the last retraining began at `last_at`."""
    triggers = config.triggers
    new, watermark = reader.count(since), reader.watermark()
    calibration = population = None
    if triggers.at_least <= new < triggers.new_interactions:
        newest = _newest(reader, since, triggers.drift.window)
        if newest and triggers.drift.calibration is not None:
            calibration = _calibration(newest, serving)
        if newest and triggers.drift.population is not None:
            population = _population(newest, serving)
    return Observed(new=new, last_at=last_at, watermark=watermark, calibration=calibration, population=population)


def serving_predictor(serving: ModelEntry) -> PCTRModel | None:
    """The click predictor that the serving model learned from; None where its run is not there any more, or it never
    had one."""
    if serving.run is None or serving.epoch is None:
        return None
    try:
        phase = RunDirectory(serving.run).phase("reward_model", serving.epoch)
        return PCTRModel.load(phase.fetch(), shared_encoder().encode) if phase.finished() else None
    except AuctionError:
        # an oracle's run, or a folder that was cleared away: then there is nothing to compare with
        return None


def _newest(reader: ShardReader, since: datetime | None, count: int) -> list[LoggedAnswer]:
    """The newest `count` usable answers since then."""
    columns = [t.column("occurred_at").to_pylist() for t in reader.tables(since, columns=("occurred_at",))]
    times = sorted(moment for column in columns for moment in column)
    if not times:
        return []
    answers, _ = read_answers(reader, times[-min(count, len(times))], None, 0.0)
    return answers[-count:]


def _calibration(newest: list[LoggedAnswer], serving: ModelEntry) -> Interval | None:
    """Clicks over those expected, of ads shown long enough ago."""
    predictor = serving_predictor(serving)
    if predictor is None:
        return None
    seen = delay_distribution(newest).seen([a.watched_s for a in newest])
    old = [i for i, share in enumerate(seen) if share > 0]
    answers = [newest[i] for i in old]
    expected = predictor.probabilities([(a.as_bid, a.generation.answer) for a in answers])
    clicks = [a.clicks for a in answers]
    rows = foretold(clicks, expected, None, seen[old].tolist(), [True] * len(old))
    found = predictor_figures(rows, seed=len(answers))
    return found.calibration if found else None


def _population(newest: list[LoggedAnswer], serving: ModelEntry) -> float | None:
    known = _learned_queries(serving, len(newest))
    if len(known) < 2 or len(newest) < 2:
        return None
    encode = shared_encoder().encode
    return population_shift(encode(known), encode([a.context.query for a in newest]))


def _learned_queries(serving: ModelEntry, most: int) -> list[str]:
    """Queries of the feedback that the serving model learned from, at most so many of them."""
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
            queries = [item.context.query for item in read_sampled(folder / "answers.parquet")]
    except AuctionError:
        return []
    order = np.random.default_rng(0).permutation(len(queries))[:most]
    return [queries[i] for i in order]
