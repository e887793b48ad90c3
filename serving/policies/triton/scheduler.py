"""Several generations at once on one policy: a thread that gives every running answer one step in turn.

A new request's first step (its prompt) comes after at most one step of each running answer, so no answer waits for the
end of another. An answer is the same as if it ran alone: generations share only the weights. Batching many rows into
one forward pass is left to the vLLM variant. Knows neither Triton nor torch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from mechanism.errors import AuctionError, PolicyError
from serving.policies.protocol import Completed, PolicyBackend, PolicyEvent
from serving.policies.triton.wire import PolicyRequest, QueueFull


class Reply(Protocol):
    """Where one answer is sent; called by one thread at a time."""

    def event(self, event: PolicyEvent) -> None:
        """Send the next piece; `Completed` is the last one."""
        ...

    def failed(self, error: AuctionError) -> None:
        """End the answer with an error."""
        ...

    def cancelled(self) -> bool:
        """Return whether the reader is gone; asked between steps."""
        ...

    def dropped(self) -> None:
        """End the answer because it was cancelled."""
        ...


@dataclass(slots=True, eq=False)
class _Job:
    request: PolicyRequest
    reply: Reply
    steps: Generator[PolicyEvent, None, None] | None = None


class Scheduler:
    """Writes `slots` answers at once and queues `waiting` more.

    `policy_of` returns the policy of an adapter by its digest, and the model's own for "". `report` gets the type of an
    unexpected exception, never its text, which may quote the prompt.
    """

    def __init__(
        self, policy_of: Callable[[str], PolicyBackend], slots: int, waiting: int, report: Callable[[str], None]
    ) -> None:
        self._policy_of = policy_of
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
        """Queue an answer and return at once.

        Raises:
            PolicyError: if the scheduler is closed.
            QueueFull: if slots and queue are full.
        """
        with self._wake:
            if self._closing:
                raise PolicyError("the model is being unloaded: ask the version that replaces it")
            if self._full():
                self._drop_cancelled()
            if self._full():
                raise QueueFull(f"{self._slots} answers are being written and {self._waiting} wait: try again later")
            self._queue.append(_Job(request, reply))
            self._wake.notify()

    def close(self) -> None:
        """Stop the thread; answers that are still running fail."""
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
        """Wait for work and fill the free slots; return False once the scheduler is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._queue or self._running)
            while self._queue and len(self._running) < self._slots:
                self._running.append(self._queue.popleft())
            return not self._closing

    def _full(self) -> bool:
        return len(self._queue) + len(self._running) >= self._slots + self._waiting

    def _drop_cancelled(self) -> None:
        """Remove the cancelled answers from the queue."""
        cancelled = [job for job in self._queue if job.reply.cancelled()]
        for job in cancelled:
            self._queue.remove(job)
            job.reply.dropped()

    def _step(self, job: _Job) -> None:
        """Make one step of an answer. The slot of the last step is free before the reader gets it."""
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
            self._fail(job, PolicyError("the policy failed: the server's log names the kind of failure"))

    def _next(self, job: _Job) -> PolicyEvent:
        if job.steps is None:
            request = job.request
            policy = self._policy_of(request.adapter or "")
            job.steps = policy.stream(request.context, request.seed, request.max_ads, request.limits)
        event = next(job.steps, None)
        if event is None:
            raise PolicyError("the policy ended without a Completed event")
        return event

    def _fail(self, job: _Job, error: AuctionError) -> None:
        """Send an error to the reader. A failure to send does not affect the other answers."""
        try:
            job.reply.failed(error)
        except Exception as unsent:
            self._report(type(unsent).__name__)

    def _leave(self, job: _Job) -> None:
        """Free the slot and what the generation holds; a second call changes nothing."""
        _close(job)
        with self._wake:
            if job in self._running:
                self._running.remove(job)


def _close(job: _Job) -> None:
    """Free what a generation holds (its cache), in the thread that ran it."""
    if job.steps is not None:
        job.steps.close()
