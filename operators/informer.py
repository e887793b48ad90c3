"""One watch of the API server that keeps a store current, and resumes where it was after an interruption.

A collection is listed once. After that the watch continues from the last version it has seen, which bookmarks keep
recent; only a version that the API server no longer knows makes it list again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from operators.kube import ApiError
from operators.resources.base import Manifest
from operators.store import Store, Trim, key_of

log = structlog.get_logger(__name__)

LONGEST_BACKOFF_S = 30.0
GONE = 410
UNAUTHORISED = 401
Changed = Callable[[Manifest | None, Manifest | None], None]
"""Receives an object before and after a change; None where there was or is none."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched collection: the objects of a kind that have `label`, or with `all_objects` every one of the kind.

    The collection is listed by the value of `label`; `trim` returns the part of an object that is kept.
    """

    version: str
    kind: str
    trim: Trim
    label: str = ""
    all_objects: bool = False

    @property
    def selector(self) -> str:
        """The label selector of the watch."""
        return "" if self.all_objects else self.label


class Watcher(Protocol):
    """Lists and watches (`operators.kube.KubeApi`)."""

    def list_all(self, version: str, kind: str, namespace: str | None, labels: str) -> tuple[Sequence[Manifest], str]:
        """Return the objects of a collection, and the version from which a watch continues."""

    def watch(self, version: str, kind: str, namespace: str | None, labels: str, since: str) -> Iterator[Manifest]:
        """Yield the events after a version until the watch ends."""

    def serves(self, group: str) -> bool:
        """Return whether the API server serves an API group."""


class Informer:
    """A thread that keeps `store` current; `namespace` None: all namespaces. `changed` runs in that thread."""

    def __init__(
        self, api: Watcher, watched: Watched, namespace: str | None, changed: Changed | None, stop: threading.Event
    ) -> None:
        self.watched, self.namespace = watched, namespace
        self.store = Store(watched.label, watched.trim)
        self.synced = threading.Event()
        """Set once the store has held the whole collection."""
        self.unauthorised_since: float | None = None
        """Since when (monotonic clock) the API server has answered with 401 only."""
        self._api, self._changed, self._stop = api, changed, stop
        self._since = ""
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"watch-{watched.kind}-{namespace or ''}", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends with the process, or at the first event after `stop` is set."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.follow()
            except ApiError as error:
                self._note_failure(error)
            except Exception:
                log.exception("operator.watch_defect", kind=self.watched.kind, namespace=self.namespace)
                self._since, self._failures = "", self._failures + 1
            if self._failures:
                self._stop.wait(random.uniform(0.5, 1.0) * min(LONGEST_BACKOFF_S, 0.5 * 2.0 ** min(self._failures, 10)))

    def follow(self) -> None:
        """List the collection if it is not known, then take the events of one watch; the API's errors pass through."""
        where = (self.watched.version, self.watched.kind, self.namespace, self.watched.selector)
        if not self._since:
            items, since = self._api.list_all(*where)
            self._replace(items)
            self._since = since
            self._note_success()
            self.synced.set()
        for event in self._api.watch(*where, self._since):
            self._take(event)
            self._note_success()
            if self._stop.is_set():
                return
        self._note_success()

    def _take(self, event: Manifest) -> None:
        item = event["object"]
        match event["type"]:
            case "ADDED" | "MODIFIED":
                self._put(item)
            case "DELETED":
                self._remove(item)
        self._since = item["metadata"]["resourceVersion"]  # a bookmark has nothing else

    def _replace(self, items: Sequence[Manifest]) -> None:
        for key in self.store.missing_in(items):
            before = self.store.remove(key)
            if self._changed is not None:
                self._changed(before, None)
        for item in items:
            self._put(item)

    def _put(self, item: Manifest) -> None:
        before = self.store.put(item)
        if self._changed is not None:
            self._changed(before, item)

    def _remove(self, item: Manifest) -> None:
        before = self.store.remove(key_of(item))
        if self._changed is not None and before is not None:
            self._changed(before, None)

    def _note_success(self) -> None:
        self._failures, self.unauthorised_since = 0, None

    def _note_failure(self, error: ApiError) -> None:
        if error.status == GONE:
            self._since = ""
            # Listed again at once, but not in a tight loop.
        self._failures += 1
        if error.status != UNAUTHORISED:
            self.unauthorised_since = None
        elif self.unauthorised_since is None:
            self.unauthorised_since = time.monotonic()
        report = log.info if error.status in (0, GONE) or error.status >= 500 else log.warning
        report("operator.watch_interrupted", kind=self.watched.kind, namespace=self.namespace, error=str(error)[:500])
