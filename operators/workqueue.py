"""Keys of objects to look at: each at most once at a time, now or later, so that a hundred events are one look."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Queue(Generic[K]):
    """Threads take keys and say when they are done with them; what was added in the meantime comes after that."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        """When each key that is not taken is due; an entry of the heap with another time has been replaced."""
        self._taken: dict[K, float | None] = {}
        """Keys that a thread looks at, and when they are due again."""
        self._order = itertools.count()
        self._closed = False

    def add(self, key: K, after_s: float = 0.0) -> None:
        """Has a key looked at in so many seconds; an earlier time that is noted already stays."""
        due = time.monotonic() + after_s
        with self._changed:
            if key in self._taken:
                noted = self._taken[key]
                self._taken[key] = due if noted is None else min(noted, due)
            else:
                self._put(key, due)

    def take(self) -> tuple[K, float] | None:
        """The next key that is due, and since when (by the monotonic clock); waits for one. None once it is closed."""
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
        """Ends a look."""
        with self._changed:
            due = self._taken.pop(key)
            if due is not None:
                self._put(key, due)

    def close(self) -> None:
        """Has every thread that takes go home."""
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
