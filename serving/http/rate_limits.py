"""How many requests a key or an address may send: bounds in the memory of this router, each with its own count.

Callers with a key are counted by it, all others by their address; so are keys that are not valid. The algorithm (GCRA)
and its bounded store are throttled-py's: an allowance refills evenly, and an idle caller may use all of it at once.
"""

from __future__ import annotations

import math

from throttled import MemoryStore, Throttled, per_day, per_min

from serving.errors import ApiError
from serving.http.bodies import HttpRequest
from serving.http.proxies import network_of
from serving.metrics import Metrics
from serving.settings import ServeSettings

MOST_CALLERS = 100_000
"""Keys and addresses that are counted at a time; the one that was not seen for longest is forgotten first."""


class RateLimits:
    """The limits of one router; 0 in a setting is no limit."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        store, refused = MemoryStore(options={"MAX_SIZE": MOST_CALLERS}), metrics.rate_limited
        minute, day = settings.key_per_minute, settings.key_per_day
        self._address = _limiter("address", settings.address_per_minute, store)
        self._key = _limiter("key", minute, store)
        self._quota = None if not day else Throttled(quota=per_day(day), store=store, key_prefix="quota", using="gcra")
        self._refused = {by: refused.labels(by) for by in ("address", "key", "quota")}

    def admit_address(self, request: HttpRequest) -> None:
        """Count a request without a valid key; raises the 429 of `_admit`."""
        self._admit(self._address, "address", network_of(request.client.host if request.client else ""))

    def admit_key(self, key_id: str) -> None:
        """Count a request with a key; raises the 429 of `_admit`."""
        self._admit(self._key, "key", key_id)
        self._admit(self._quota, "quota", key_id)

    def _admit(self, limiter: Throttled | None, by: str, caller: str) -> None:
        """Count a request.

        Raises:
            ApiError: 429 where the caller has used up its allowance.
        """
        if limiter is None:
            return
        result = limiter.limit(caller)
        if result.limited:
            self._refused[by].inc()
            wait_s = max(1, math.ceil(result.state.retry_after))
            whose = {"address": "this address", "key": "this key"}.get(by, "this key today")
            message = f"too many requests of {whose}: try again in {wait_s} s"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=wait_s)


def _limiter(name: str, per_minute: int, store: MemoryStore) -> Throttled | None:
    return Throttled(quota=per_min(per_minute), store=store, key_prefix=name, using="gcra") if per_minute else None
