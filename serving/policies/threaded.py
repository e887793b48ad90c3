"""A policy of this process behind the asynchronous protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from mechanism.types import Context
from serving.errors import PolicyTimeout
from serving.policies.protocol import AsyncPolicyBackend, PolicyEvent
from serving.policies.worker import PolicyWorker


class ThreadedPolicy(AsyncPolicyBackend):
    """A `PolicyWorker` as an `AsyncPolicyBackend`. One answer is written at a time; the worker's queue is the bound."""

    def __init__(self, worker: PolicyWorker) -> None:
        self._worker = worker

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self._worker.backend.digest

    @property
    def breaker_open(self) -> bool:
        """False: there is no server between the router and a policy of its own process."""
        return False

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float
    ) -> AsyncGenerator[PolicyEvent, None]:
        """As `AsyncPolicyBackend.stream`. The worker's own, fixed limit holds as well."""
        answering = self._worker.submit(context, seed, max_ads)
        async with aclosing(answering.events()) as events:  # type: ignore[type-var]
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise PolicyTimeout("the policy passed its deadline") from None
                yield event

    async def ready(self) -> bool:
        """False while one generation holds the thread for longer than it may."""
        return not self._worker.stuck()

    async def close(self) -> None:
        """Stops the running answer and refuses the queued ones."""
        self._worker.close()
