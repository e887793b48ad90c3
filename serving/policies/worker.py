"""Runs the policy off the event loop: one answer at a time, a bounded queue, cancellation and a deadline.

One thread owns the policy, because a generation already uses every core. What it writes reaches the event loop through
a queue per answer; whoever waits there can leave at any time, and the thread stops at the next token.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from mechanism.errors import AuctionError, PolicyError
from mechanism.types import Context
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.protocol import Completed, PolicyBackend, PolicyEvent

log = structlog.get_logger(__name__)


class Answering:
    """One answer on its way. Made by `PolicyWorker.submit`, on the event loop."""

    def __init__(self, deadline_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[PolicyEvent | Exception] = asyncio.Queue()
        self._ends = self._loop.time() + deadline_s
        self.cancelled = threading.Event()
        self.job: Future[None] | None = None

    async def events(self) -> AsyncIterator[PolicyEvent]:
        """The policy's events, `Completed` last. Raises what the policy raised, or PolicyTimeout at the deadline.

        Leaving early, for whatever reason, cancels the generation.
        """
        try:
            while True:
                event = await self._next()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Completed):
                    return
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Asks the policy to stop, or leaves the queue; harmless once the answer has ended."""
        self.cancelled.set()
        if self.job is not None:
            self.job.cancel()

    async def _next(self) -> PolicyEvent | Exception:
        try:
            async with asyncio.timeout_at(self._ends):
                return await self._events.get()
        except TimeoutError:
            raise PolicyTimeout("the policy passed its deadline") from None

    def push(self, event: PolicyEvent | Exception) -> None:
        """Called by the policy's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop has closed: the server is going down and nobody listens
            self.cancel()


class PolicyWorker:
    """The one thread that asks the policy, and the bounded queue before it."""

    def __init__(self, backend: PolicyBackend, waiting: int, deadline_s: float) -> None:
        self.backend = backend
        self._room = threading.BoundedSemaphore(1 + waiting)
        self._deadline_s = deadline_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")
        self._busy_since: float | None = None
        self._open: set[Answering] = set()

    def submit(self, context: Context, seed: int, max_ads: int) -> Answering:
        """Queues one generation. Raises Overloaded when the queue is full."""
        if not self._room.acquire(blocking=False):
            raise Overloaded("the policy's queue is full")
        answering = Answering(self._deadline_s)
        try:
            job = self._thread.submit(self._run, answering, context, seed, max_ads)
        except RuntimeError as error:  # shut down
            self._room.release()
            raise PolicyError("the server is shutting down") from error
        answering.job = job
        self._open.add(answering)
        job.add_done_callback(lambda done: self._ended(answering, done))
        return answering

    def stuck(self) -> bool:
        """Whether one generation has held the thread for longer than the deadline: nothing will be answered then."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._deadline_s

    def close(self) -> None:
        """Stops the running answer and refuses the queued ones; does not wait for a policy that hangs."""
        for answering in tuple(self._open):
            answering.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, answering: Answering, context: Context, seed: int, max_ads: int) -> None:
        self._busy_since = time.monotonic()
        try:
            self._stream(answering, context, seed, max_ads)
        except AuctionError as error:
            answering.push(error)
        except Exception as error:
            # The message of a foreign exception may quote the prompt: only its type is logged.
            log.error("policy failed", reason=type(error).__name__)
            answering.push(PolicyError("the policy failed"))
        finally:
            self._busy_since = None

    def _ended(self, answering: Answering, job: Future[None]) -> None:
        """Makes room in the queue: after the answer, or as soon as one that was waiting is cancelled."""
        self._open.discard(answering)
        self._room.release()
        if job.cancelled():
            answering.push(PolicyError("the answer was cancelled before it began"))

    def _stream(self, answering: Answering, context: Context, seed: int, max_ads: int) -> None:
        stream = self.backend.stream(context, seed, max_ads)
        completed = False
        try:
            for event in stream:
                if answering.cancelled.is_set():
                    return
                answering.push(event)
                completed = isinstance(event, Completed)
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()
        if not completed:
            raise PolicyError("the policy ended without saying so")
