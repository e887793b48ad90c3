"""A circuit breaker in front of a policy server: a pure state machine.

Closed: every call passes, and `failures` consecutive failures open it. Open: no call passes for `cooldown_s` seconds.
Half open, after that: one call passes as a probe; success closes the breaker, failure opens it again, and a probe that
ends without either lets the next call probe. Times are seconds on any monotonic clock; the caller holds both the clock
and the state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mechanism.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Consecutive failures that open the breaker, and how long it then stays open, in seconds."""

    failures: int = 5
    cooldown_s: float = 1.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ConfigError("breaker.failures", self.failures, "give a whole number >= 1")
        if not self.cooldown_s > 0:
            raise ConfigError("breaker.cooldown_s", self.cooldown_s, "give seconds above 0")


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state: consecutive failures, since when it is open (None: closed), and whether a probe is under way."""

    settings: BreakerSettings = BreakerSettings()
    failures: int = 0
    opened_at: float | None = None
    probing: bool = False

    @property
    def closed(self) -> bool:
        """Whether every call passes."""
        return self.opened_at is None

    def allows(self, now: float) -> bool:
        """Return whether a call may start now. The caller then applies `started` and one of the three ends."""
        if self.opened_at is None:
            return True
        return not self.probing and now - self.opened_at >= self.settings.cooldown_s

    def started(self) -> Breaker:
        """Return the state after a call started; while the breaker is open it is the probe."""
        return self if self.opened_at is None else replace(self, probing=True)

    def succeeded(self) -> Breaker:
        """Return the state after a call showed that the server works."""
        return Breaker(self.settings)

    def failed(self, now: float) -> Breaker:
        """Return the state after a call showed that the server does not work."""
        failures = self.failures + 1
        opens = self.opened_at is not None or failures >= self.settings.failures
        return Breaker(self.settings, failures, now if opens else None)

    def abandoned(self) -> Breaker:
        """Return the state after the probe ended without a result, for instance because its reader left."""
        return replace(self, probing=False)
