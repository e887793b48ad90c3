"""Calls to a policy server: retries before the answer has begun, and a circuit breaker that records how calls end.

A request is repeated only after a failed connection, before any part of its answer has arrived. Any response of the
server is final, an error included.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from mechanism.errors import AuctionError, ConfigError, InputError, PolicyError
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.breaker import Breaker, BreakerSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")


class ServerDown(PolicyError):
    """The policy server cannot be reached, or the breaker is open because it could not be."""


@dataclass(frozen=True, slots=True)
class CallSettings:
    """Retries and time limits of one policy server; seconds.

    `retries` after failed connections, with a pause of up to `backoff_s`, doubled each time. `probe_s` limits a
    readiness check of the server or its model. A timeout counts as a failure of the server only if nothing arrived for
    `silence_s`: a request with a shorter deadline shows nothing about the server.
    """

    retries: int = 2
    backoff_s: float = 0.05
    probe_s: float = 5.0
    silence_s: float = 2.0
    breaker: BreakerSettings = field(default_factory=BreakerSettings)

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ConfigError("calls.retries", self.retries, "give a whole number >= 0")
        for name, seconds in (("backoff_s", self.backoff_s), ("silence_s", self.silence_s)):
            if not seconds >= 0:
                raise ConfigError(f"calls.{name}", seconds, "give seconds >= 0")
        if not self.probe_s > 0:
            raise ConfigError("calls.probe_s", self.probe_s, "give seconds above 0")


class ServerCalls:
    """The calls to one server, which `server` names in errors and logs."""

    def __init__(self, server: str, settings: CallSettings) -> None:
        self.breaker = Breaker(settings.breaker)
        self.settings = settings
        self._server = server

    async def begin(self, attempt: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Return the result of `attempt`, which sends a request and waits for the first part of its answer.

        After ServerDown it is called again following a random pause, while retries are left, the pause ends before
        `deadline` (a time on the running loop's clock) and the breaker is closed.

        Raises:
            ServerDown: if the last attempt failed as well.
        """
        loop = asyncio.get_running_loop()
        for retry in range(self.settings.retries):
            try:
                return await attempt()
            except ServerDown:
                pause = self.settings.backoff_s * 2**retry * random.uniform(0.5, 1.0)
                if loop.time() + pause >= deadline or not self.breaker.closed:
                    raise
                await asyncio.sleep(pause)
        return await attempt()

    @contextmanager
    def guarded(self, clock: Callable[[], float], deadline: float) -> Iterator[Callable[[], None]]:
        """Run one call in the `with` block and record its end in the breaker.

        Yields a function to call at the first sign that the server works.

        Raises:
            PolicyTimeout: if `deadline`, a time on `clock`, has passed.
            ServerDown: while the breaker is open.
            AuctionError: the error of the call, once it is recorded.
        """
        began = clock()
        if deadline <= began:
            raise PolicyTimeout("the deadline passed before the policy was called")
        if not self.breaker.allows(began):
            raise ServerDown(f"{self._server} failed repeatedly and gets no requests for a moment: see its log")
        probe = not self.breaker.closed
        self.breaker, undecided = self.breaker.started(), True

        def works() -> None:
            nonlocal undecided
            if undecided:
                self.breaker, undecided = self.breaker.succeeded(), False

        try:
            yield works
        except AuctionError as error:
            if isinstance(error, InputError | Overloaded):
                self.breaker, undecided = self.breaker.succeeded(), False  # the server judged the request: it works
            elif not isinstance(error, PolicyTimeout) or (undecided and clock() - began >= self.settings.silence_s):
                self.breaker, undecided = self.breaker.failed(clock()), False
                if not self.breaker.closed:
                    log.warning("policy.breaker_opened", server=self._server, reason=type(error).__name__)
            raise
        finally:
            if undecided and probe:
                self.breaker = self.breaker.abandoned()
