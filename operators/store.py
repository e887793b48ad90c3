"""Objects of one watched collection, kept as compact JSON: a Python object of the same content takes ten times as much.

They are parsed when they are read, so a reader may change what it got.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable

from operators.resources.base import Manifest

Key = tuple[str, str]
"""Namespace ("" for an object without one) and name."""
Trim = Callable[[Manifest], Manifest]
"""Returns the part of an object that is kept."""


def key_of(item: Manifest) -> Key:
    """Return the key of an object."""
    meta = item["metadata"]
    return meta.get("namespace") or "", meta["name"]


class Store:
    """Objects by key, and by namespace and value of the label `label`; safe to use from several threads."""

    def __init__(self, label: str, trim: Trim) -> None:
        self._label, self._trim = label, trim
        self._lock = threading.Lock()
        self._objects: dict[Key, bytes] = {}
        self._values: dict[Key, str] = {}
        self._by_value: defaultdict[tuple[str, str], set[Key]] = defaultdict(set)

    def get(self, key: Key) -> Manifest | None:
        """Return an object, or None if it is not here."""
        with self._lock:
            found = self._objects.get(key)
        return None if found is None else _parsed(found)

    def with_label(self, namespace: str, value: str) -> list[Manifest]:
        """Return the objects of a namespace whose label has this value, in the order of their names."""
        with self._lock:
            found = [self._objects[key] for key in sorted(self._by_value.get((namespace, value), ()))]
        return [_parsed(one) for one in found]

    def known(self) -> list[Key]:
        """Return the keys of all objects."""
        with self._lock:
            return list(self._objects)

    def put(self, item: Manifest) -> Manifest | None:
        """Keep an object; return the one that it replaces."""
        key, text = key_of(item), json.dumps(self._trim(item), separators=(",", ":")).encode()
        value = (item["metadata"].get("labels") or {}).get(self._label)
        with self._lock:
            before = self._objects.get(key)
            self._unindex(key)
            self._objects[key] = text
            if value is not None:
                self._values[key] = value
                self._by_value[key[0], value].add(key)
        return None if before is None else _parsed(before)

    def remove(self, key: Key) -> Manifest | None:
        """Drop an object; return it if it was here."""
        with self._lock:
            before = self._objects.pop(key, None)
            self._unindex(key)
        return None if before is None else _parsed(before)

    def missing_in(self, items: Iterable[Manifest]) -> list[Key]:
        """Return the keys of the objects that a list of the collection no longer has."""
        listed = {key_of(item) for item in items}
        return [key for key in self.known() if key not in listed]

    def _unindex(self, key: Key) -> None:
        value = self._values.pop(key, None)
        if value is None:
            return
        keys = self._by_value[key[0], value]
        keys.discard(key)
        if not keys:
            del self._by_value[key[0], value]


def _parsed(text: bytes) -> Manifest:
    item: Manifest = json.loads(text)
    return item
