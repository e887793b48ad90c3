"""A circuit breaker in front of a policy server: when to stop asking one that fails, and when to try it again.

`Breaker` is a pure state machine, `GuardedCalls` reads the verdicts for it from how calls end.

Closed: everything passes; `failures` failures in a row open it. Open: nothing passes until `cool_s` seconds are over.
Then one caller may try (half open): success closes it, failure opens it again, and a trial that ended without a verdict
lets the next caller try. Times are seconds on any clock that does not go back; the caller holds it and the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from mechanism.errors import ConfigError, InputError, PolicyError
from serving.errors import Overloaded, PolicyTimeout

log = structlog.get_logger(__name__)


class ServerDown(PolicyError):
    """The policy server cannot be reached, or the breaker is open because it could not."""


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


class GuardedCalls:
    """The calls to one server and the breaker that their ends drive. A call that times out counts as a failure of the
    server only after `silence_s` seconds without a sign of it: a shorter deadline says nothing about the server."""

    def __init__(self, server: str, settings: BreakerSettings, silence_s: float) -> None:
        self.breaker = Breaker(settings)
        self._server = server
        self._silence_s = silence_s

    @contextmanager
    def call(self, clock: Callable[[], float], deadline: float) -> Iterator[Callable[[], None]]:
        """One call inside the block; what it gives is to be called at the first sign that the server works.

        Raises PolicyTimeout where the deadline, a time on `clock`, is over, and ServerDown while the breaker is open.
        """
        began = clock()
        if deadline <= began:
            raise PolicyTimeout("the deadline was over before the policy was asked")
        if not self.breaker.admits(began):
            raise ServerDown(f"{self._server} failed again and again and is left alone for a moment: see its log")
        trial = not self.breaker.closed
        self.breaker, undecided = self.breaker.began(), True

        def works() -> None:
            nonlocal undecided
            if undecided:
                self.breaker, undecided = self.breaker.succeeded(), False

        try:
            yield works
        except (InputError, Overloaded):
            self.breaker, undecided = self.breaker.succeeded(), False  # the server judged the request: it works
            raise
        except PolicyError as error:
            if not isinstance(error, PolicyTimeout) or (undecided and clock() - began >= self._silence_s):
                self.breaker, undecided = self.breaker.failed(clock()), False
                if not self.breaker.closed:
                    log.warning("policy server left alone", server=self._server, reason=type(error).__name__)
            raise
        finally:
            if undecided and trial:
                self.breaker = self.breaker.abandoned()
