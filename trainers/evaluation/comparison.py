"""One method against another on the same queries: ratios and differences with paired 95% intervals.

A ratio is given only where the rival's figure is positive; a difference always. Which comparisons matter is settled
here for the report (the trained policy over the pretrained model and over MOSAIC), their display elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, percentile_interval, resampled_means
from trainers.evaluation.records import FIELD, PER_AD, AnswerRecord, by_query

COMPARED: Final = ("revenue_per_query", "reward_per_query", "ctr", "relevance")
"""Metrics that are compared."""
RIVALS: Final = ("pretrained", "mosaic")
"""Methods that the trained policy is compared with."""

_LEVEL = 0.95
_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric of one method over and minus a rival's. `ratio` is None where the rival's figure is not positive, and an
    end of it is infinite where the rival's figure cannot be told from zero; both are None where a figure is undefined
    (a rate over ads of a method that shows none)."""

    ratio: Interval | None
    difference: Interval | None


def compare(records: Sequence[AnswerRecord], rival: Sequence[AnswerRecord], seed: int) -> dict[str, Comparison]:
    """The COMPARED metrics of `records` against `rival`, resampling the queries jointly; same seed, same intervals.

    Raises InputError unless both hold the same queries.
    """
    ours, theirs = by_query(records), by_query(rival)
    unpaired = ours.keys() ^ theirs.keys()
    if unpaired:
        place = f"queries of {records[0].method} and {rival[0].method}"
        raise InputError(place, sorted(unpaired)[:3], "run both methods on the same queries; these have one only")
    compared = {}
    for metric in COMPARED:
        below = "ads" if metric in PER_AD else None
        rows = [row for side in (ours, theirs) for row in _fraction(side, ours, FIELD[metric], below)]
        compared[metric] = _compare(np.stack(rows), seed)
    return compared


def ratios(records: Mapping[str, Sequence[AnswerRecord]], seed: int) -> dict[str, dict[str, Comparison]]:
    """Rival -> metric -> comparison of `llm_auction`, for those of RIVALS that `records` (by method) holds."""
    if "llm_auction" not in records:
        return {}
    return {rival: compare(records["llm_auction"], records[rival], seed) for rival in RIVALS if rival in records}


def _fraction(
    table: Mapping[str, Mapping[str, float]], order: Mapping[str, object], above: str, below: str | None
) -> tuple[Floats, Floats]:
    """Numerators and denominators (queries,) of a metric; the denominator of a mean over queries is one."""
    top = np.array([table[query][above] for query in order])
    return top, np.array([table[query][below] for query in order]) if below else np.ones(len(top))


def _compare(rows: Floats, seed: int) -> Comparison:
    """`rows` (4, queries): our numerator and denominator, the rival's."""
    point = rows.mean(axis=1)
    if point[1] <= 0 or point[3] <= 0:
        return Comparison(None, None)
    draws = resampled_means(rows, seed, _DRAWS)
    # A resample in which a method shows no ad has no rate; it says nothing of the difference.
    usable = (draws[:, 1] > 0) & (draws[:, 3] > 0)
    ours, theirs = draws[usable, 0] / draws[usable, 1], draws[usable, 2] / draws[usable, 3]
    here, there = float(point[0] / point[1]), float(point[2] / point[3])
    difference = percentile_interval(here - there, ours - theirs, _LEVEL)
    if there <= 0:
        return Comparison(None, difference)
    unbounded = np.where(ours < 0, -np.inf, np.inf)
    quotients = np.divide(ours, theirs, out=unbounded, where=theirs > 0)
    return Comparison(percentile_interval(here / there, quotients, _LEVEL), difference)
