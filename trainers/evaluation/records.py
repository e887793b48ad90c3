"""One measured answer, and the nine figures of a method with their 95% intervals over queries.

The unit of resampling is the query: several answers to one query are averaged first. Running the mechanisms, and what
a click, a payment or relevance is, are left to the callers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from mechanism.errors import InputError
from mechanism.statistics import Floats, Interval, bootstrap_interval, proportion_interval, ratio_interval

METHODS: Final = ("pretrained", "mosaic", "gsp", "segment", "llm_auction", "oracle")
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

# Sums of probabilities may pass the number of ads by rounding.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What one method did on one query.

    `revenue` (bid points): expected payment, sum price_i * ctr_i over the shown ads; `reward` (points): Eq. 5 with true
    click probabilities; `ads`: distinct ads shown, over which `clicks_expected` sums the click probabilities and
    `relevance_sum` the ad-query relevance; `invalid`: faults that the marker parser found; `quality`: 0..1
    (`trainers.evaluation.quality`); `generations`: model generations spent; `seconds`: wall clock.
    Raises InputError for a figure that is not finite or out of range.
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
    """Query id -> field -> mean over the answers to that query, in order of first appearance.

    Raises InputError when there is no record or the records belong to more than one method.
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
    """The nine METRICS of one method with 95% bootstrap intervals over queries; same seed, same intervals.

    `ctr` and `relevance` are ratios of sums over shown ads, resampled jointly; where no ad was shown at all they are
    undefined (nan, null in JSON), and where a resample shows none that end is the widest possible. Where no fault was
    seen, the upper end of `invalid_insertions` is Wilson's for the share of faulty answers: a bootstrap of zeros would
    claim certainty. Raises InputError as `by_query`.
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
    """Mean over shown ads, within -1..1 by definition, so an unbounded end is closed there."""
    if not ads.any():
        return Interval(math.nan, math.nan, math.nan)
    ratio = ratio_interval(sums, ads, seed)
    return Interval(ratio.mean, max(ratio.lo, -1.0), max(ratio.mean, min(ratio.hi, 1.0)))
