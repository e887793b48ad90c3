"""Predicted click rates for what is charged without a click: per impression and for taking part.

The rate of a creative is its clicks by its impressions, drawn towards a prior while they are few (the mean of a Beta
posterior). A learned predictor may take this module's place; payments stay `mechanism.payments`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from mechanism.types import AdId, MarkerChoice
from serving.database.engine import Database
from serving.reports.reports import Dimension, Query, report


class ClickRates:
    """Click rates by creative id; immutable, so that an auction keeps the ones that it began with."""

    def __init__(self, prior: float, strength: int, seen: Mapping[AdId, tuple[int, int]] | None = None) -> None:
        self._prior = Fraction(prior).limit_denominator(1_000_000)
        self._strength = strength
        self._seen = seen or {}

    def updated(self, seen: Mapping[AdId, tuple[int, int]]) -> ClickRates:
        """The same prior over other counts (impressions, clicks)."""
        return ClickRates(float(self._prior), self._strength, seen)

    def of(self, creative_id: AdId) -> Fraction:
        """The click rate of a creative when it is shown, within 0..1."""
        shown, clicks = self._seen.get(creative_id, (0, 0))
        rate = (clicks + self._prior * self._strength) / (shown + self._strength)
        return min(Fraction(1), rate)


def counted(database: Database) -> dict[AdId, tuple[int, int]]:
    """Impressions and clicks of every creative so far."""
    found: dict[AdId, tuple[int, int]] = {}
    for line in report(database, Query(group_by=(Dimension.CREATIVE,))):
        shown, clicks = found.get(str(line.creative_id), (0, 0))
        found[str(line.creative_id)] = (shown + line.impressions, clicks + line.clicks)
    return found


def insertion_rates(choices: Sequence[MarkerChoice], ads: Iterable[AdId]) -> dict[AdId, Fraction]:
    """P(a_i in y) of each ad, given the places where this answer opened a marker: 1 - prod_k (1 - p_k(i))."""
    rates = {}
    for ad in ads:
        missed = Fraction(1)
        for choice in choices:
            share = choice.probabilities.get(ad, 0.0)
            missed *= 1 - Fraction(min(1.0, max(0.0, share)))
        rates[ad] = 1 - missed
    return rates
