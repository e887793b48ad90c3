"""A policy on a thread of its own behind the asynchronous protocol."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator

import pytest

from mechanism.errors import PolicyError
from mechanism.types import Context
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.in_process import ThreadedPolicy
from serving.policies.protocol import AnswerLimits, AsyncPolicyBackend, Completed, PolicyEvent, TextDelta

CONTEXT = Context("c", "q", ())


class Slow:
    """Writes `steps` deltas, one each 10 ms."""

    digest = "d"

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.closed = threading.Event()

    def stream(self, context: Context, seed: int, max_ads: int, limits: AnswerLimits) -> Iterator[PolicyEvent]:
        try:
            for i in range(self.steps):
                yield TextDelta(str(i))
                time.sleep(0.01)
            yield Completed((), -1.0, self.steps, 3)
        finally:
            self.closed.set()


def threaded(policy: Slow, waiting: int = 4) -> ThreadedPolicy:
    return ThreadedPolicy(policy, waiting, deadline_s=30)


def ask(backend: AsyncPolicyBackend, seconds: float = 20) -> AsyncGenerator[PolicyEvent, None]:
    return backend.stream(CONTEXT, 0, 0, asyncio.get_running_loop().time() + seconds)


def test_events_arrive_in_order_with_the_policys_digest() -> None:
    async def run() -> None:
        backend = threaded(Slow(3))
        events = [event async for event in ask(backend)]
        assert events == [TextDelta("0"), TextDelta("1"), TextDelta("2"), Completed((), -1.0, 3, 3)]
        assert (backend.digest, await backend.ready()) == ("d", True)
        await backend.close()

    asyncio.run(run())


def test_closing_early_stops_the_generation() -> None:
    async def run() -> None:
        policy = Slow(10**6)
        backend = threaded(policy)
        events = ask(backend)
        await anext(events)
        await events.aclose()
        assert await asyncio.to_thread(policy.closed.wait, 10)
        await backend.close()

    asyncio.run(run())


def test_the_deadline_ends_the_answer() -> None:
    async def run() -> None:
        policy = Slow(10**6)
        backend = threaded(policy)
        with pytest.raises(PolicyTimeout):
            async for _ in ask(backend, seconds=0.1):
                pass
        assert await asyncio.to_thread(policy.closed.wait, 10)
        await backend.close()

    asyncio.run(run())


def test_a_full_queue_refuses_and_closing_ends_the_others() -> None:
    async def run() -> None:
        backend = threaded(Slow(10**6), waiting=1)
        first, second, third = ask(backend), ask(backend), ask(backend)
        await anext(first)
        waiting = asyncio.ensure_future(anext(second))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await anext(third)
        await backend.close()
        with pytest.raises(PolicyError):
            await waiting
        await first.aclose()

    asyncio.run(run())
