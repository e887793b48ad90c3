"""Policy versions that are adapters of one base model: they share its weights, and each is a `PolicyBackend`.

An adapter is loaded when it is first asked for, and at most `KEPT` that write nothing now stay loaded. One adapter is
active at a time, so each step of an answer activates its own first; versions in threads of their own take turns. Torch
is imported on loading only.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from mechanism.errors import PolicyError
from mechanism.types import Context
from serving.policies.model import ModelPolicy, checked_digest, folder_digest
from serving.policies.protocol import (
    OWN_LIMITS,
    AdapterAbsent,
    AnswerLimits,
    Completed,
    PolicyBackend,
    PolicyEvent,
)

if TYPE_CHECKING:
    from inference.shared_base import SharedBase

KEPT = 8
BASE = ""
"""In place of an adapter's digest: the base alone."""


class SharedPolicies:
    """The policies of a base model and its adapters. Safe to use from several threads."""

    def __init__(self, base: ModelPolicy) -> None:
        self._own = base
        self._shared: SharedBase | None = None
        self._loaded: OrderedDict[str, ModelPolicy] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._turn = threading.RLock()

    @classmethod
    def load(cls, name_or_path: str) -> SharedPolicies:
        """Load the base model by its name or folder; errors are those of `ModelPolicy.load`."""
        return cls(ModelPolicy.load(name_or_path))

    @property
    def loaded(self) -> list[str]:
        """Digests of the adapters that are loaded, the one that was needed last at the end."""
        return list(self._loaded)

    def base(self) -> PolicyBackend:
        """Return the policy of the base alone."""
        return _SharedPolicy(self, BASE, self._own.digest, Path())

    def adapter(self, folder: Path, digest: str = "") -> PolicyBackend:
        """Return the policy of the adapter in a folder, which has this digest if one is given (else `checked_digest`).

        Raises:
            AdapterAbsent: if there is no such folder.
            PolicyError: if its weights have another digest.
        """
        if digest in self._loaded:
            return _SharedPolicy(self, digest, digest, folder)
        if not folder.is_dir():
            raise AdapterAbsent(f"adapter {digest[:12] or folder} is not on this server: build it into the repository")
        # A request names its adapter by the digest: files with another one are no fault of the request.
        found = folder_digest(folder) if digest else checked_digest(folder)
        if digest and found != digest:
            raise PolicyError(f"adapter {digest[:12]} has weights {found[:12]} on this server: build it again")
        return _SharedPolicy(self, found, found, folder)

    @contextmanager
    def writing(self, name: str, folder: Path) -> Iterator[ModelPolicy]:
        """Keep an adapter loaded for the `with` block."""
        with self._turn:
            policy = self._own if name == BASE else self._load(name, folder)
            self._running[name] += 1
        try:
            yield policy
        finally:
            with self._turn:
                self._running[name] -= 1

    def step(self, name: str, events: Generator[PolicyEvent, None, None]) -> PolicyEvent | None:
        """Return the next event of an answer that an adapter writes, None after the last one."""
        with self._turn:
            if self._shared is not None:
                self._shared.activate(name)
            return next(events, None)

    def _load(self, name: str, folder: Path) -> ModelPolicy:
        if self._shared is None:
            from inference.shared_base import SharedBase

            self._shared = SharedBase(self._own.policy)
        if name not in self._loaded:
            for idle in [one for one in self._loaded if not self._running[one]][: len(self._loaded) + 1 - KEPT]:
                del self._loaded[idle], self._running[idle]
                self._shared.remove(idle)
            self._loaded[name] = ModelPolicy(self._shared.policy(folder, name), name)
        self._loaded.move_to_end(name)
        return self._loaded[name]


class LocalPolicies:
    """Opens policies of this process: adapters of one base share it for as long as one of them is open."""

    def __init__(self) -> None:
        self._bases: WeakValueDictionary[str, SharedPolicies] = WeakValueDictionary()

    def open(self, name_or_path: str) -> PolicyBackend:
        """Load a model or an adapter by its name or folder; errors are those of `ModelPolicy.load`."""
        from inference.adapter_files import base_of
        from inference.models import resolve

        where = Path(resolve(name_or_path))
        base = base_of(where)
        if base is None:
            return ModelPolicy.load(name_or_path)
        shared = self._bases.get(base)
        if shared is None:
            shared = self._bases[base] = SharedPolicies.load(base)
        return shared.adapter(where)


class _SharedPolicy:
    """The policy of the base, or of one adapter on it."""

    def __init__(self, shared: SharedPolicies, name: str, digest: str, folder: Path) -> None:
        self.digest = digest
        self._shared = shared
        self._name = name
        self._folder = folder

    def stream(
        self, context: Context, seed: int, max_ads: int, limits: AnswerLimits = OWN_LIMITS
    ) -> Generator[PolicyEvent, None, None]:
        """See `PolicyBackend.stream`."""
        with self._shared.writing(self._name, self._folder) as policy:
            events = policy.stream(context, seed, max_ads, limits)
            try:
                while (event := self._shared.step(self._name, events)) is not None:
                    yield replace(event, digest=self.digest) if isinstance(event, Completed) else event
            finally:
                events.close()
