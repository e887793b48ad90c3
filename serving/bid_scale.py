"""The scale of bids: what a bid in a currency is worth in the points of a prompt, and the highest that can be booked.

A policy reads bids as whole points from 0 to 100 (`mechanism.prompt`) and is trained on that range. The highest bid of
a currency is 100 points, 0 is 0, and between them points grow in proportion to the bid. A higher bid would buy nothing
beyond 100 points, so none can be booked, and one that was booked under another scale counts, and is charged, as the
highest. Bids in one prompt have one currency, so the scales of two currencies never meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mechanism.errors import ConfigError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import MICROS_PER_UNIT, Micros

TOP_POINTS = 100
DEFAULT_UNITS: Mapping[str, int] = {
    **dict.fromkeys(("AUD", "CAD", "CHF", "EUR", "GBP", "NZD", "SGD", "USD"), 1),
    **dict.fromkeys(("AED", "BRL", "CNY", "DKK", "HKD", "ILS", "MXN", "MYR", "NOK", "PLN", "RON", "SAR", "SEK"), 5),
    **dict.fromkeys(("CZK", "THB", "TRY", "TWD", "UAH", "ZAR"), 25),
    **dict.fromkeys(("INR", "JPY", "PHP"), 100),
    **dict.fromkeys(("HUF", "KRW", "CLP"), 500),
    **dict.fromkeys(("COP", "IDR", "VND"), 10_000),
}
"""Highest bids in units of each currency: a dollar by order of magnitude. `--highest-bid` sets a market's own."""


@dataclass(frozen=True, slots=True)
class BidScale:
    """The scale of a market; `highest` holds the highest bids in micros that replace the defaults, by currency.

    Raises:
        ConfigError: if a highest bid is less than a micro a point, or more than a million units.
    """

    highest: Mapping[str, Micros] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for currency, micros in self.highest.items():
            if not TOP_POINTS <= micros <= 10**12:
                remedy = f"give micros from {TOP_POINTS} to {10**12}"
                raise ConfigError(f"highest bid in {currency}", micros, remedy)

    def highest_in(self, currency: str) -> Micros | None:
        """Return the highest bid that can be booked in a currency; None if it has no scale."""
        given = self.highest.get(currency)
        if given is None and currency in DEFAULT_UNITS:
            given = DEFAULT_UNITS[currency] * MICROS_PER_UNIT
        return given

    def effective(self, bid: Micros, currency: str) -> Micros:
        """Return the bid that takes part in an auction and is charged: no more than the highest."""
        return min(bid, self._top(currency))

    def shown(self, bid: Micros, currency: str, factor: float = 1.0) -> Micros:
        """Return `factor` times the bid as the policy reads it, in the micros of prompts."""
        return round(bid * TOP_POINTS * MICROS_PER_POINT / self._top(currency) * factor)

    def _top(self, currency: str) -> Micros:
        # A campaign that was booked before its currency had a scale bids as in a currency of one dollar.
        return self.highest_in(currency) or MICROS_PER_UNIT


def parse_amounts(texts: list[str], place: str) -> dict[str, Micros]:
    """Read `USD=2.50` and the like: units of the currency, converted to micros exactly; `place` is the option's name.

    Raises:
        ConfigError: if an entry is not a currency and an amount.
    """
    found: dict[str, Micros] = {}
    for text in texts:
        currency, _, amount = text.strip().partition("=")
        whole, _, fraction = amount.partition(".")
        digits = whole + fraction
        if not (len(currency) == 3 and currency.isascii() and currency.isupper() and currency.isalpha()) or not (
            digits.isascii() and digits.isdigit() and len(fraction) <= 6
        ):
            raise ConfigError(place, text, "give a currency and an amount of units such as USD=2.50")
        found[currency] = int(whole or "0") * MICROS_PER_UNIT + int(fraction.ljust(6, "0"))
    return found
