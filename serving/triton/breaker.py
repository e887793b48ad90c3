"""A circuit breaker as a pure state machine: when to stop asking a server that fails, and when to try it again.

Closed: everything passes; `failures` failures in a row open it. Open: nothing passes until `cool_s` seconds are over.
Then one caller may try (half open): success closes it, failure opens it again, and a trial that ended without a verdict
lets the next caller try. Times are seconds on any clock that does not go back; the caller holds it and the state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mechanism.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Failures in a row that open it, and how long it then stays open, in seconds."""

    failures: int = 5
    cool_s: float = 1.0

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise ConfigError("breaker.failures", self.failures, "give a whole number >= 1")
        if not self.cool_s > 0:
            raise ConfigError("breaker.cool_s", self.cool_s, "give seconds above 0")


@dataclass(frozen=True, slots=True)
class Breaker:
    """The state: failures in a row, since when it is open (None: closed), and whether somebody is trying."""

    settings: BreakerSettings = BreakerSettings()
    failed_in_a_row: int = 0
    opened: float | None = None
    trying: bool = False

    @property
    def closed(self) -> bool:
        """Whether everything passes."""
        return self.opened is None

    def admits(self, now: float) -> bool:
        """Whether a call may go out now; whoever makes it calls `began` first, and reports its end."""
        return self.opened is None or (not self.trying and now - self.opened >= self.settings.cool_s)

    def began(self) -> Breaker:
        """A call went out."""
        return self if self.opened is None else replace(self, trying=True)

    def succeeded(self) -> Breaker:
        """A call showed that the server works."""
        return Breaker(self.settings)

    def failed(self, now: float) -> Breaker:
        """A call showed that the server does not work."""
        failures = self.failed_in_a_row + 1
        opens = self.opened is not None or failures >= self.settings.failures
        return Breaker(self.settings, failures, now if opens else None)

    def abandoned(self) -> Breaker:
        """The trial of a half-open breaker ended without showing either, for instance because its caller left."""
        return replace(self, trying=False)
