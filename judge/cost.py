"""The cost of the judge: calls, tokens, cache hits, retries and money, with a budget that is never exceeded.

Every call reserves its highest possible price before it is sent, and is charged for the tokens that the endpoint
reports. Concurrent calls therefore cannot exceed the budget together. Prices are integer micros per million tokens.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from mechanism.errors import BudgetSpentError, InputError
from mechanism.types import Micros

TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Micros per million tokens read and written; 0 for a self-hosted endpoint."""

    read: Micros = 0
    written: Micros = 0

    def __post_init__(self) -> None:
        for name, price in (("read", self.read), ("written", self.written)):
            if type(price) is not int or price < 0:
                raise InputError(f"prices.{name}", price, "give whole micros per million tokens, 0 or more")

    def of(self, read: int, written: int) -> Micros:
        """Return the price of `read` and `written` tokens, rounded up to a whole micro."""
        return -(-(read * self.read + written * self.written) // TOKENS_PER_PRICE)


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals of calls, tokens and money.

    `unmetered` calls came without token counts and were charged at their upper bound. `lost` requests were sent but
    brought no usable reply; the endpoint may still bill them.
    """

    calls: int = 0
    read: int = 0
    written: int = 0
    cached: int = 0
    retries: int = 0
    unmetered: int = 0
    lost: int = 0
    spent: Micros = 0


class CostMeter:
    """Thread-safe counter of usage against a `budget` in micros (None: no limit).

    Requests without a reply are counted but not charged, because what an endpoint bills for them is unknown.
    """

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

    def reserve(self, max_read: int, max_written: int) -> Micros:
        """Reserve the highest possible price of a call; return it for `charge` or `release`.

        Raises:
            BudgetSpentError: if the budget does not cover that price.
        """
        price = self.prices.of(max_read, max_written)
        with self._lock:
            taken = self._spent() + self._reserved
            if self.budget is not None and taken + price > self.budget:
                raise BudgetSpentError(
                    f"judge budget: {taken} of {self.budget} micros are spent or reserved and the next call may cost "
                    f"{price}: raise the budget or grade fewer answers"
                )
            self._reserved += price
        return price

    def charge(self, reserved: Micros, read: int, written: int, *, metered: bool = True) -> None:
        """Replace a reservation by the tokens of an answered call."""
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
        """Cancel the reservation of a request that brought no usable reply."""
        with self._lock:
            self._reserved -= reserved
            self._usage = replace(self._usage, lost=self._usage.lost + 1)

    def count_cached(self) -> None:
        """Count a reply from the cache."""
        with self._lock:
            self._usage = replace(self._usage, cached=self._usage.cached + 1)

    def count_retry(self) -> None:
        """Count a repeated request."""
        with self._lock:
            self._usage = replace(self._usage, retries=self._usage.retries + 1)

    def _spent(self) -> Micros:
        # From the totals, so that rounding up happens once and not per call.
        return self.prices.of(self._usage.read, self._usage.written)
