"""A work queue of object keys: deduplicated, delayed, and never handing one key to two threads at once.

Any number of events for a key that waits lead to one reconcile pass; events during a pass lead to one more after it.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Queue(Generic[K]):
    """Worker threads `take` keys and report `done`; a key added while it is taken is queued again after that."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        """Due time of each waiting key. A heap entry with another time is obsolete and skipped."""
        self._taken: dict[K, float | None] = {}
        """Keys that a thread is working on, with the time at which they are due again."""
        self._order = itertools.count()
        self._closed = False

    def add(self, key: K, after_s: float = 0.0) -> None:
        """Queue a key to be due in `after_s` seconds; if it is queued already, the earlier time counts."""
        due = time.monotonic() + after_s
        with self._changed:
            if key in self._taken:
                next_due = self._taken[key]
                self._taken[key] = due if next_due is None else min(next_due, due)
            else:
                self._put(key, due)

    def take(self) -> tuple[K, float] | None:
        """Block until a key is due; return it with its due time (monotonic clock). None: the queue is closed."""
        with self._changed:
            while not self._closed:
                while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
                    heapq.heappop(self._heap)
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    due, _, key = heapq.heappop(self._heap)
                    del self._due[key]
                    self._taken[key] = None
                    return key, due
                self._changed.wait(wait)
            return None

    def done(self, key: K) -> None:
        """Release a taken key; it is queued again if it was added in the meantime."""
        with self._changed:
            due = self._taken.pop(key)
            if due is not None:
                self._put(key, due)

    def close(self) -> None:
        """Close the queue: blocked and later take() calls return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._due) + len(self._taken)

    def _put(self, key: K, due: float) -> None:
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.notify()
