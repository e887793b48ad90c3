"""What the judge costs: calls, tokens, cache hits, retries and money, with a budget that is never passed.

Every call reserves its highest possible price before it is sent and settles at the tokens that the endpoint reports,
so calls in flight cannot pass the budget together. Prices are integer micros per million tokens.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from mechanism.errors import InputError, JudgeError
from mechanism.types import Micros

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Micros per million tokens read and written; 0 for an endpoint of one's own."""

    read: Micros = 0
    written: Micros = 0

    def __post_init__(self) -> None:
        for name, price in (("read", self.read), ("written", self.written)):
            if type(price) is not int or price < 0:
                raise InputError(f"prices.{name}", price, "give whole micros per million tokens, 0 or more")

    def of(self, read: int, written: int) -> Micros:
        """The price of so many tokens, rounded up to a whole micro."""
        return -(-(read * self.read + written * self.written) // TOKENS_PER_PRICE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals. `unmetered` calls came without token counts and are charged at their upper bound; `lost` requests
    were sent but brought no usable reply (they may still be on the endpoint's bill)."""

    calls: int = 0
    read: int = 0
    written: int = 0
    cached: int = 0
    retries: int = 0
    unmetered: int = 0
    lost: int = 0
    spent: Micros = 0


class CostMeter:
    """Thread-safe counter. `budget` in micros, None for no limit. Requests that brought no reply are counted but not
    charged: what an endpoint bills for them cannot be known."""

    def __init__(self, prices: Prices | None = None, budget: Micros | None = None) -> None:
        self.prices = prices or Prices()
        self.budget = budget
        self._usage = Usage()
        self._reserved: Micros = 0
        self._lock = threading.Lock()

    @property
    def usage(self) -> Usage:
        """The totals so far."""
        with self._lock:
            return replace(self._usage, spent=self._spent())

    def reserve(self, most_read: int, most_written: int) -> Micros:
        """Set money aside for a call of at most so many tokens; JudgeError if the budget does not hold it."""
        price = self.prices.of(most_read, most_written)
        with self._lock:
            taken = self._spent() + self._reserved
            if self.budget is not None and taken + price > self.budget:
                raise JudgeError(
                    f"judge budget: {taken} of {self.budget} micros are spent or set aside and the next call may cost "
                    f"{price}: raise the budget or ask less"
                )
            self._reserved += price
        return price

    def settle(self, reserved: Micros, read: int, written: int, *, metered: bool = True) -> None:
        """Close a reservation with the tokens of an answered call."""
        with self._lock:
            self._reserved -= reserved
            u = self._usage
            self._usage = replace(
                u,
                calls=u.calls + 1,
                read=u.read + read,
                written=u.written + written,
                unmetered=u.unmetered + (not metered),
            )

    def release(self, reserved: Micros) -> None:
        """Close the reservation of a request that brought no usable reply."""
        with self._lock:
            self._reserved -= reserved
            self._usage = replace(self._usage, lost=self._usage.lost + 1)

    def hit(self) -> None:
        """Count a reply taken from the cache."""
        with self._lock:
            self._usage = replace(self._usage, cached=self._usage.cached + 1)

    def retry(self) -> None:
        """Count a repeated request."""
        with self._lock:
            self._usage = replace(self._usage, retries=self._usage.retries + 1)

    def _spent(self) -> Micros:
        """From the totals, so that rounding up happens once and not per call."""
        return self.prices.of(self._usage.read, self._usage.written)
