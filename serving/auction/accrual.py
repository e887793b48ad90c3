"""What the answers of this router cost campaigns before the ledger has booked it.

Spend reaches routers through the event log, the ledger and the database, which may take minutes. Until then a router
counts here what it knows: charges that it sent to the log, and the clicks that it still expects on the links it has
just shown. `EligibilityIndex` subtracts both from what is left of a budget or an account. Times are Unix seconds; money
is in micros of the campaign's currency. Ids are those of campaigns, and the keys of accounts
(`serving.campaigns.funds.Account`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from math import exp, inf

from mechanism.types import Micros

CLICK_S = 20.0
"""Mean time from a link to its click, on the long side: what is expected too long only delays the last ads of a day."""
LEAST_EXPECTED = 1.0
"""Micros below which expected clicks are forgotten."""


class Accrual:
    """Unbooked charges and expected clicks by campaign. Belongs to the event loop."""

    def __init__(self) -> None:
        self._charges: deque[tuple[float, str, Micros]] = deque()
        self._charged: defaultdict[str, Micros] = defaultdict(int)
        self._expected: dict[str, tuple[float, float]] = {}
        """Expected micros at a time, from which they fade as clicks come or stay away."""

    def charge(self, campaign_id: str, micros: Micros, at: float) -> None:
        """Add a charge whose event goes to the log at `at`; charges come in the order of time."""
        if micros:
            self._charges.append((at, campaign_id, micros))
            self._charged[campaign_id] += micros

    def expect(self, campaign_id: str, micros: float, at: float) -> None:
        """Add the expected cost of a link that was shown at `at`: its bid times its click rate."""
        self._expected[campaign_id] = (self._expected_at(campaign_id, at) + micros, at)

    def settle(self, booked_until: float, now: float) -> set[str]:
        """Drop charges that the ledger has booked; return the campaigns whose sum has changed."""
        changed = set(self._expected)
        while self._charges and self._charges[0][0] < booked_until:
            _, campaign_id, micros = self._charges.popleft()
            self._charged[campaign_id] -= micros
            if not self._charged[campaign_id]:
                del self._charged[campaign_id]
            changed.add(campaign_id)
        for campaign_id in list(self._expected):
            if self._expected_at(campaign_id, now) < LEAST_EXPECTED:
                del self._expected[campaign_id]
        return changed

    def charged(self, campaign_id: str) -> Micros:
        """Return the unbooked charges of a campaign."""
        return self._charged.get(campaign_id, 0)

    def of(self, campaign_id: str, now: float) -> Micros:
        """Return the unbooked charges and the expected clicks of a campaign."""
        return self.charged(campaign_id) + round(self._expected_at(campaign_id, now))

    def __iter__(self) -> Iterator[str]:
        """Yield the campaigns that have any."""
        return iter(self._charged.keys() | self._expected.keys())

    def _expected_at(self, campaign_id: str, now: float) -> float:
        micros, at = self._expected.get(campaign_id, (0.0, -inf))
        return micros * exp(-max(0.0, now - at) / CLICK_S) if micros else 0.0
