"""The cluster as the watches see it: what reconcile passes read, without a request to the API server.

A cache may lag behind. So a pass that would write anything is decided again on the API server's own state
(`operators.controller`); only a pass that changes nothing relies on the cache alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from operators.informer import Changed, Informer, Watched, Watcher
from operators.objects import Reader
from operators.resources.base import Manifest
from operators.store import Key

SERVES_S = 300.0
REFUSED_S = 40.0
"""How long the API server may refuse the credentials: one that is starting may refuse valid ones."""


class Cache:
    """All watched collections; a `Reader` of these and no others. No namespaces: all."""

    def __init__(self, api: Watcher, watched: Mapping[Watched, Changed | None], namespaces: Sequence[str]) -> None:
        self._api, self._stop = api, threading.Event()
        self._served: dict[str, tuple[bool, float]] = {}
        self._informers: dict[tuple[str, str, str], dict[str | None, Informer]] = {}
        for one, changed in watched.items():
            places: Sequence[str | None] = namespaces if namespaces and one.kind != "Node" else [None]
            by_place = {place: Informer(api, one, place, changed, self._stop) for place in places}
            self._informers[one.version, one.kind, one.label] = by_place
        self._whole = {(one.version, one.kind): one.label for one in watched if one.all_objects}

    @property
    def informers(self) -> list[Informer]:
        """All watches."""
        return [one for places in self._informers.values() for one in places.values()]

    def start(self) -> None:
        """Start all watches."""
        for informer in self.informers:
            informer.start()

    def stop(self) -> None:
        """End the watches."""
        self._stop.set()

    def synced(self) -> bool:
        """Return whether every collection has been read."""
        return all(informer.synced.is_set() for informer in self.informers)

    def alive(self) -> bool:
        """Return whether every watch runs."""
        return all(informer.alive for informer in self.informers)

    def refused(self) -> bool:
        """Return whether the API server has refused the credentials of a watch for REFUSED_S."""
        now = time.monotonic()
        return any(
            since is not None and now - since >= REFUSED_S
            for since in (informer.unauthorised_since for informer in self.informers)
        )

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object of a collection that is watched in full, or None if it does not exist."""
        informer = self._informer(version, kind, self._whole[version, kind], namespace)
        return informer.store.get((namespace or "", name))

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
        """Return the objects with a label of this value (`NAME=VALUE`)."""
        label, _, value = labels.partition("=")
        return self._informer(version, kind, label, namespace).store.with_label(namespace or "", value)

    def serves(self, group: str) -> bool:
        """Return whether the API server serves an API group, as it was at most SERVES_S ago."""
        known, now = self._served.get(group), time.monotonic()
        if known is None or now - known[1] >= SERVES_S:
            known = self._served[group] = (self._api.serves(group), now)
        return known[0]

    def keys(self, version: str, kind: str) -> Sequence[Key]:
        """Return the keys of all objects of a collection that is watched in full."""
        places = self._informers[version, kind, self._whole[version, kind]]
        return [key for informer in places.values() for key in informer.store.known()]

    def _informer(self, version: str, kind: str, label: str, namespace: str | None) -> Informer:
        places = self._informers[version, kind, label]
        return places[None] if None in places else places[namespace]


class Current:
    """The API server's own state. A node is read from the cache if it is there: a job may run on hundreds."""

    def __init__(self, api: Reader, cache: Cache) -> None:
        self._api, self._cache = api, cache

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None if it does not exist."""
        known = self._cache.get(version, kind, namespace, name) if kind == "Node" else None
        return known if known is not None else self._api.get(version, kind, namespace, name)

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
        """Return all objects that match a label selector."""
        return self._api.list(version, kind, namespace, labels)

    def serves(self, group: str) -> bool:
        """Return whether the API server serves an API group."""
        return self._api.serves(group)
