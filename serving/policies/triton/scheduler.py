"""Several generations at once on one policy: a thread that gives every running answer one step in turn.

A new request's first step (its prompt) comes after at most one step of each running answer, so nobody waits for
another's end. An answer is the same as if it ran alone: nothing is shared between generations but the weights.
Batching many rows into one forward pass is left to the vLLM variant. Knows neither Triton nor torch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Protocol, cast

from mechanism.errors import AuctionError, PolicyError
from serving.policies.protocol import Completed, PolicyBackend, PolicyEvent
from serving.policies.triton.wire import PolicyRequest, QueueFull


class Reply(Protocol):
    """Where one answer goes; called by one thread at a time."""

    def event(self, event: PolicyEvent) -> None:
        """The next piece; after a `Completed` nothing follows."""
        ...

    def failed(self, error: AuctionError) -> None:
        """The answer ends here."""
        ...

    def cancelled(self) -> bool:
        """Whether nobody waits for the answer any more; asked between steps."""
        ...

    def dropped(self) -> None:
        """The answer was given up because it was cancelled."""
        ...


@dataclass(slots=True, eq=False)
class _Job:
    request: PolicyRequest
    reply: Reply
    steps: Iterator[PolicyEvent] | None = None


class Scheduler:
    """`slots` answers are written at once and `waiting` more may queue. `report` is told the type of a foreign
    exception (its text may quote the prompt)."""

    def __init__(self, policy: PolicyBackend, slots: int, waiting: int, report: Callable[[str], None]) -> None:
        self._policy = policy
        self._slots = slots
        self._waiting = waiting
        self._report = report
        self._queue: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: PolicyRequest, reply: Reply) -> None:
        """Queues an answer and returns at once. Raises QueueFull when slots and queue are full."""
        with self._wake:
            if self._closing:
                raise PolicyError("the model is being unloaded: ask the version that replaces it")
            if self._full():
                self._drop_given_up()
            if self._full():
                raise QueueFull(f"{self._slots} answers are being written and {self._waiting} wait: try again later")
            self._queue.append(_Job(request, reply))
            self._wake.notify()

    def close(self) -> None:
        """Ends the thread; answers that are still running fail."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._admit():
            for job in list(self._running):
                self._step(job)
        for job in [*self._running, *self._queue]:
            _close(job)
            self._fail(job, PolicyError("the model was unloaded before the answer was complete: ask again"))

    def _admit(self) -> bool:
        """Waits for work and fills the free slots; False once the scheduler is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._queue or self._running)
            while self._queue and len(self._running) < self._slots:
                self._running.append(self._queue.popleft())
            return not self._closing

    def _full(self) -> bool:
        return len(self._queue) + len(self._running) >= self._slots + self._waiting

    def _drop_given_up(self) -> None:
        """Takes those out of the queue for whom nobody waits any more."""
        given_up = [job for job in self._queue if job.reply.cancelled()]
        for job in given_up:
            self._queue.remove(job)
            job.reply.dropped()

    def _step(self, job: _Job) -> None:
        """One step of an answer. Where it is the last one the slot is free before anybody hears of it."""
        try:
            event = None if job.reply.cancelled() else self._next(job)
            if event is None or isinstance(event, Completed):
                self._leave(job)
            if event is None:
                job.reply.dropped()
            else:
                job.reply.event(event)
        except AuctionError as error:
            self._leave(job)
            self._fail(job, error)
        except Exception as error:
            self._leave(job)
            self._report(type(error).__name__)
            self._fail(job, PolicyError("the policy failed; the server's log names the kind of failure"))

    def _next(self, job: _Job) -> PolicyEvent:
        if job.steps is None:
            request = job.request
            job.steps = self._policy.stream(request.context, request.seed, request.max_ads)
        event = next(job.steps, None)
        if event is None:
            raise PolicyError("the policy ended without saying so")
        return event

    def _fail(self, job: _Job, error: AuctionError) -> None:
        """Tells the reader, who may be beyond reach: the other answers go on."""
        try:
            job.reply.failed(error)
        except Exception as unheard:
            self._report(type(unheard).__name__)

    def _leave(self, job: _Job) -> None:
        """Frees the slot, and what the generation holds; a second call changes nothing."""
        _close(job)
        with self._wake:
            if job in self._running:
                self._running.remove(job)


def _close(job: _Job) -> None:
    """Frees what a generation holds (its cache), at once and in the thread that ran it."""
    if job.steps is not None:
        cast(Generator[PolicyEvent, None, None], job.steps).close()
