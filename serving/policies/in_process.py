"""A policy in the router's process, run off the event loop: one answer at a time, a bounded queue, a deadline.

One thread owns the policy, because a generation already uses every core. Its events reach the event loop through a
queue per answer; when the reader leaves that queue, the thread stops at the next token.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from mechanism.errors import AuctionError, PolicyError
from mechanism.types import Context
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.protocol import (
    OWN_LIMITS,
    AnswerLimits,
    AsyncPolicyBackend,
    Completed,
    PolicyBackend,
    PolicyEvent,
)

log = structlog.get_logger(__name__)


class ThreadedPolicy(AsyncPolicyBackend):
    """A `PolicyBackend` on a thread of its own. `waiting` answers may queue behind the one that is being written.

    No answer may take longer than `deadline_s`, whatever its own deadline.
    """

    def __init__(self, backend: PolicyBackend, waiting: int, deadline_s: float) -> None:
        self._backend = backend
        self._deadline_s = deadline_s
        self._slots = threading.BoundedSemaphore(1 + waiting)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._busy_since: float | None = None
        self._open: set[_Answer] = set()

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return self._backend.digest

    @property
    def breaker_open(self) -> bool:
        """False: there is no server between the router and a policy of its own process."""
        return False

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        """See `AsyncPolicyBackend.stream`."""
        answer = self._submit(context, seed, max_ads, limits)
        ends = min(deadline, asyncio.get_running_loop().time() + self._deadline_s)
        try:
            while True:
                event = await answer.next(ends)
                yield event
                if isinstance(event, Completed):
                    return
        finally:
            answer.cancel()

    async def ready(self) -> bool:
        """Return whether the thread is free, or has not been busy with one answer for longer than the deadline."""
        since = self._busy_since
        return since is None or time.monotonic() - since <= self._deadline_s

    async def close(self) -> None:
        """Stop the running answer and refuse the queued ones; does not wait for a policy that hangs."""
        for answer in tuple(self._open):
            answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, context: Context, seed: int, max_ads: int, limits: AnswerLimits) -> _Answer:
        """Queue one generation.

        Raises:
            Overloaded: if the queue is full.
            PolicyError: if the server is shutting down.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded("the policy's queue is full")
        answer = _Answer()
        try:
            job = self._thread.submit(self._run, answer, context, seed, max_ads, limits)
        except RuntimeError as error:  # the executor is shut down
            self._slots.release()
            raise PolicyError("the server is shutting down") from error
        answer.job = job
        self._open.add(answer)
        job.add_done_callback(lambda done: self._ended(answer, done))
        return answer

    def _run(self, answer: _Answer, context: Context, seed: int, max_ads: int, limits: AnswerLimits) -> None:
        self._busy_since = time.monotonic()
        try:
            self._write(answer, context, seed, max_ads, limits)
        except AuctionError as error:
            answer.push(error)
        except Exception as error:
            # The message of a third party's exception may quote the prompt: only its type is logged.
            log.error("policy.failed", reason=type(error).__name__)
            answer.push(PolicyError("the policy failed"))
        finally:
            self._busy_since = None

    def _write(self, answer: _Answer, context: Context, seed: int, max_ads: int, limits: AnswerLimits) -> None:
        events = self._backend.stream(context, seed, max_ads, limits)
        completed = False
        try:
            for event in events:
                if answer.cancelled.is_set():
                    return
                answer.push(event)
                completed = isinstance(event, Completed)
        finally:
            events.close()
        if not completed:
            raise PolicyError("the policy ended without a Completed event")

    def _ended(self, answer: _Answer, job: Future[None]) -> None:
        """Free the queue's slot: after the answer, or as soon as a waiting one is cancelled."""
        self._open.discard(answer)
        self._slots.release()
        if job.cancelled():
            answer.push(PolicyError("the answer was cancelled before it began"))


class _Answer:
    """One answer under way: the thread pushes its events, the event loop takes them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[PolicyEvent | Exception] = asyncio.Queue()
        self.cancelled = threading.Event()
        self.job: Future[None] | None = None

    async def next(self, ends: float) -> PolicyEvent:
        """Return the policy's next event, or raise the error that ended the answer.

        Raises:
            PolicyTimeout: at `ends`, a time on the loop's clock.
        """
        try:
            async with asyncio.timeout_at(ends):
                event = await self._events.get()
        except TimeoutError:
            raise PolicyTimeout("the policy passed its deadline") from None
        if isinstance(event, Exception):
            raise event
        return event

    def push(self, event: PolicyEvent | Exception) -> None:
        """Hand an event to the event loop; called by the policy's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has closed: the server is going down and no reader is left
            self.cancel()

    def cancel(self) -> None:
        """Stop the generation, or leave the queue; harmless once the answer has ended."""
        self.cancelled.set()
        if self.job is not None:
            self.job.cancel()
