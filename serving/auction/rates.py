"""Predicted click rates, for payments per impression and for participation.

A creative's rate is the mean of a Beta posterior: clicks by impressions, shrunk towards a prior while there are few. A
learned predictor may replace this module; payments are computed by `mechanism.payments`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from mechanism.types import AdId, MarkerChoice
from serving.database.engine import Database
from serving.reports.reports import Dimension, Query, report


class ClickRates:
    """Click rates by creative id; immutable, so that an auction keeps the rates it started with."""

    def __init__(self, prior: float, strength: int, counts: Mapping[AdId, tuple[int, int]] | None = None) -> None:
        self._prior = Fraction(prior).limit_denominator(1_000_000)
        self._strength = strength
        self._counts = counts or {}

    def updated(self, counts: Mapping[AdId, tuple[int, int]]) -> ClickRates:
        """Return rates with the same prior from other counts (impressions, clicks)."""
        return ClickRates(float(self._prior), self._strength, counts)

    def of(self, creative_id: AdId) -> Fraction:
        """Return the click rate of a creative when it is shown, within 0..1."""
        shown, clicks = self._counts.get(creative_id, (0, 0))
        rate = (clicks + self._prior * self._strength) / (shown + self._strength)
        return min(Fraction(1), rate)


def creative_counts(database: Database) -> dict[AdId, tuple[int, int]]:
    """Read the impressions and clicks of every creative from the reports."""
    found: dict[AdId, tuple[int, int]] = {}
    for line in report(database, Query(group_by=(Dimension.CREATIVE,))):
        shown, clicks = found.get(str(line.creative_id), (0, 0))
        found[str(line.creative_id)] = (shown + line.impressions, clicks + line.clicks)
    return found


def insertion_rates(choices: Sequence[MarkerChoice], ads: Iterable[AdId]) -> dict[AdId, Fraction]:
    """Return P(a_i in y) of each ad given the K markers of an answer: 1 - prod_k (1 - p_k(i))."""
    rates = {}
    for ad in ads:
        missed = Fraction(1)
        for choice in choices:
            share = choice.probabilities.get(ad, 0.0)
            missed *= 1 - Fraction(min(1.0, max(0.0, share)))
        rates[ad] = 1 - missed
    return rates
