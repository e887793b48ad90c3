"""One measured answer, the nine figures of a method, and one method against another, with 95% intervals over queries.

The unit of resampling is the query: several answers to one query are averaged first. A ratio of two methods is given
only where the baseline's figure is positive; a difference always. Running the mechanisms is left to `harness`, display
to `text` and `page`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from mechanism.errors import InputError
from mechanism.statistics import (
    Floats,
    Interval,
    bootstrap_interval,
    percentile_interval,
    proportion_interval,
    ratio_interval,
    resampled_means,
)

METHODS: Final = (
    "pretrained",
    "most_relevant",
    "highest_bids",
    "gsp",
    "segment",
    "token",
    "lera",
    "mosaic_5",
    "mosaic_20",
    "mosaic_50",
    "best_of_m",
    "rloo",
    "llm_auction",
    "oracle",
    "optimum",
)
"""Names of the methods in a report, in the order in which they are shown."""

FIELD: Final[Mapping[str, str]] = {
    "revenue_per_query": "revenue",
    "reward_per_query": "reward",
    "ctr": "clicks_expected",
    "relevance": "relevance_sum",
    "ads_per_answer": "ads",
    "invalid_insertions": "invalid",
    "answer_quality": "quality",
    "generations_per_query": "generations",
    "seconds_per_query": "seconds",
}
"""The record's field behind each metric."""
METRICS: Final = tuple(FIELD)
"""Names of the metrics of a method, in the order in which they are shown."""
PER_AD: Final = ("ctr", "relevance")
"""Metrics that are a mean over shown ads: their field is divided by the number of ads, not of answers."""

COMPARED: Final = ("revenue_per_query", "reward_per_query", "ctr", "relevance")
"""Metrics that are compared."""
SINGLE_GENERATION: Final = (
    "pretrained",
    "most_relevant",
    "highest_bids",
    "gsp",
    "segment",
    "lera",
    "best_of_m",
    "rloo",
)
"""Rivals that write one answer a query, as the trained policy does."""
BASELINES: Final = (*SINGLE_GENERATION, "mosaic_20", "optimum")
"""Methods that the trained policy is compared with."""

_LEVEL = 0.95
_DRAWS = 1000

# Sums of probabilities may pass the number of ads by rounding.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """One method's measured answer to one query.

    `revenue` (bid points): expected payment, sum price_i * ctr_i over the shown ads; `reward` (points): Eq. 5 with true
    click probabilities; `ads`: distinct ads shown, over which `clicks_expected` sums the click probabilities and
    `relevance_sum` the ad-query relevance; `invalid`: faults that the marker parser found; `quality`: 0..1
    (`trainers.reward.quality`); `generations`: model generations spent; `seconds`: wall clock. A figure that is not
    finite or out of range is an InputError.
    """

    query_id: str
    method: str
    revenue: float
    reward: float
    clicks_expected: float
    relevance_sum: float
    ads: int
    invalid: int
    quality: float
    generations: int
    seconds: float

    def __post_init__(self) -> None:
        limits = {
            "clicks_expected": (0.0, self.ads + _SLACK),
            "relevance_sum": (-self.ads - _SLACK, self.ads + _SLACK),
            "quality": (-_SLACK, 1.0 + _SLACK),
            "reward": (-math.inf, math.inf),
        }
        for field in fields(self)[2:]:
            value = getattr(self, field.name)
            low, high = limits.get(field.name, (0.0, math.inf))
            if not (math.isfinite(value) and low <= value <= high):
                place = f"record of {self.method}, query {self.query_id}: {field.name}"
                raise InputError(place, value, f"give a finite number within {low:g}..{high:g}")


def by_query(records: Iterable[AnswerRecord]) -> dict[str, dict[str, float]]:
    """Return query id -> field -> mean over the answers to that query, in order of first appearance.

    Raises:
        InputError: if there is no record, or the records belong to more than one method.
    """
    groups: dict[str, list[AnswerRecord]] = {}
    methods: set[str] = set()
    for record in records:
        groups.setdefault(record.query_id, []).append(record)
        methods.add(record.method)
    if len(methods) != 1:
        raise InputError("records", sorted(methods), "give the answers, at least one, of one method at a time")
    names = [f.name for f in fields(AnswerRecord)[2:]]
    return {
        query: {name: math.fsum(getattr(r, name) for r in answers) / len(answers) for name in names}
        for query, answers in groups.items()
    }


def summarise(records: Sequence[AnswerRecord], seed: int) -> dict[str, Interval]:
    """Summarise the nine METRICS of one method with 95% bootstrap intervals over queries; same seed, same intervals.

    `ctr` and `relevance` are ratios of sums over shown ads, resampled jointly; where no ad was shown at all they are
    undefined (nan, null in JSON), and where a resample shows none that end is the widest possible. Where no fault was
    seen, the upper end of `invalid_insertions` is Wilson's for the share of faulty answers: a bootstrap of zeros would
    claim certainty. Errors as `by_query`.
    """
    table = by_query(records)
    columns = {name: np.array([row[name] for row in table.values()]) for name in FIELD.values()}
    figures = {}
    for metric, name in FIELD.items():
        if metric in PER_AD:
            figures[metric] = _per_ad(columns[name], columns["ads"], seed)
        else:
            figures[metric] = bootstrap_interval(columns[name], seed)
    if not columns["invalid"].any():
        figures["invalid_insertions"] = Interval(0.0, 0.0, proportion_interval(0, len(table)).hi)
    return figures


def _per_ad(sums: Floats, ads: Floats, seed: int) -> Interval:
    """Return the mean over shown ads; it lies within -1..1 by definition, so an unbounded end is closed there."""
    if not ads.any():
        return Interval(math.nan, math.nan, math.nan)
    ratio = ratio_interval(sums, ads, seed)
    return Interval(ratio.mean, max(ratio.lo, -1.0), max(ratio.mean, min(ratio.hi, 1.0)))


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """A metric of one method divided by and minus a baseline's.

    `ratio` is None where the baseline's figure is not positive; an end of it is infinite where that figure is not
    significantly above zero. Both are None where a figure is undefined (a rate over ads of a method that shows none).
    """

    ratio: Interval | None
    difference: Interval | None


def compare(
    records: Sequence[AnswerRecord], baseline: Sequence[AnswerRecord], seed: int
) -> dict[str, BaselineComparison]:
    """Compare the COMPARED metrics of `records` and `baseline`, resampling queries jointly; same seed, same intervals.

    Raises:
        InputError: if the two hold different queries.
    """
    ours, theirs = by_query(records), by_query(baseline)
    unpaired = ours.keys() ^ theirs.keys()
    if unpaired:
        place = f"queries of {records[0].method} and {baseline[0].method}"
        raise InputError(place, sorted(unpaired)[:3], "run both methods on the same queries; these have one only")
    compared = {}
    for metric in COMPARED:
        below = "ads" if metric in PER_AD else None
        rows = [row for side in (ours, theirs) for row in _fraction(side, ours, FIELD[metric], below)]
        compared[metric] = _compare(np.stack(rows), seed)
    return compared


def ratios(records: Mapping[str, Sequence[AnswerRecord]], seed: int) -> dict[str, dict[str, BaselineComparison]]:
    """Return baseline -> metric -> comparison of `llm_auction`, for those of BASELINES that `records` holds."""
    if "llm_auction" not in records:
        return {}
    return {
        baseline: compare(records["llm_auction"], records[baseline], seed)
        for baseline in BASELINES
        if baseline in records
    }


def best_single_generation(records: Mapping[str, Sequence[AnswerRecord]]) -> str | None:
    """Return the rival of SINGLE_GENERATION with the highest reward per query, None if `records` holds none.

    It is chosen on the queries that it is then compared on, which favours the rival.
    """
    rivals = [name for name in SINGLE_GENERATION if name in records]
    return max(rivals, key=lambda name: math.fsum(r.reward for r in records[name]) / len(records[name]), default=None)


def _fraction(
    table: Mapping[str, Mapping[str, float]], order: Mapping[str, object], above: str, below: str | None
) -> tuple[Floats, Floats]:
    """Return numerators and denominators (queries,) of a metric; the denominator of a mean over queries is one."""
    top = np.array([table[query][above] for query in order])
    return top, np.array([table[query][below] for query in order]) if below else np.ones(len(top))


def _compare(rows: Floats, seed: int) -> BaselineComparison:
    """`rows` (4, queries): our numerator and denominator, the baseline's."""
    point = rows.mean(axis=1)
    if point[1] <= 0 or point[3] <= 0:
        return BaselineComparison(None, None)
    draws = resampled_means(rows, seed, _DRAWS)
    # A resample in which a method shows no ad has no rate; it says nothing of the difference.
    usable = (draws[:, 1] > 0) & (draws[:, 3] > 0)
    ours, theirs = draws[usable, 0] / draws[usable, 1], draws[usable, 2] / draws[usable, 3]
    here, there = float(point[0] / point[1]), float(point[2] / point[3])
    difference = percentile_interval(here - there, ours - theirs, _LEVEL)
    if there <= 0:
        return BaselineComparison(None, difference)
    unbounded = np.where(ours < 0, -np.inf, np.inf)
    quotients = np.divide(ours, theirs, out=unbounded, where=theirs > 0)
    return BaselineComparison(percentile_interval(here / there, quotients, _LEVEL), difference)
