"""Rounds of a reconciler over the objects of one kind: read, decide, write the status, then act.

The status is written first and only over the version that was read: a decision on stale knowledge is refused by the
API server before anything is done. What a kind's objects are and how they are read is in its `Kind`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar

import structlog

from operators.actions import Action, Apply, Create, Delete, Note, Outcome, Refusal, Say
from operators.kube import MANAGER, ApiError, KubeApi
from operators.metrics import OperatorMetrics
from operators.resources.base import API_VERSION, ApiModel
from operators.workqueue import Queue

log = structlog.get_logger(__name__)

Key = tuple[str, str]
"""Namespace and name."""
LONGEST_WAIT_S = 60.0
LONGEST_REFUSED_S = 15.0


class Wanted(Protocol):
    """What every kind's `Desired` has."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def status(self) -> ApiModel: ...


D = TypeVar("D", bound=Wanted)
S = TypeVar("S", bound=ApiModel)


@dataclass(frozen=True)
class Kind(Generic[D, S]):
    """A kind with its reconciler. `decide` reads what it needs beside the object and returns the outcome; `read` makes
    the object out of the API's. Raises whatever pydantic does for an object that an older schema let through."""

    name: str
    read: Callable[[Mapping[str, Any]], D]
    decide: Callable[[D, Refusal | None, datetime], Outcome[S]]
    phase: Callable[[S], str]
    ends: tuple[str, ...] = ()
    """Phases after which nothing happens any more."""


@dataclass
class _Noted:
    """What is remembered of an object between rounds; lost with the process, and not missed."""

    refused: Refusal | None = None
    failures: int = 0
    phase: str = ""


@dataclass
class Controller(Generic[D, S]):
    """Threads that look at the objects of a kind, each time at what the API server has now: what a watch has told may
    be old, and what it missed is never told."""

    kind: Kind[D, S]
    api: KubeApi
    metrics: OperatorMetrics
    queue: Queue[Key] = field(default_factory=Queue)
    _noted: dict[Key, _Noted] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, threads: int) -> None:
        """Begins to look at what is due."""
        for number in range(threads):
            thread = threading.Thread(target=self._work, name=f"{self.kind.name}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Ends after the rounds that are under way."""
        self.queue.close()
        for thread in self._threads:
            thread.join()

    def unfinished(self) -> list[Key]:
        """Objects that were not at their end when they were last looked at."""
        return [key for key, noted in list(self._noted.items()) if noted.phase not in self.kind.ends]

    def _work(self) -> None:
        while (taken := self.queue.take()) is not None:
            key, due = taken
            try:
                self.look(key, due)
            finally:
                self.queue.done(key)

    def look(self, key: Key, due: float) -> None:
        """One round for one object. `due`: when it was asked for, by the monotonic clock."""
        noted = self._noted.setdefault(key, _Noted())
        try:
            item = self.api.get(API_VERSION, self.kind.name, *key)
            if item is None:
                self._forget(key)
                return
            again = self._round(item, noted, due)
            result = "done"
        except ApiError as error:
            noted.failures += 1
            again = min(LONGEST_WAIT_S, 0.25 * 2.0 ** min(noted.failures, 10))
            # changed, or deleted, while it was looked at: the next look sees it as it is
            result = "stale" if error.status in (404, 409) else "refused"
            if result == "refused":
                log.warning("operator.refused", kind=self.kind.name, namespace=key[0], name=key[1], error=str(error))
        except Exception:
            noted.failures += 1
            again = LONGEST_WAIT_S
            result = "defect"
            log.exception("operator.defect", kind=self.kind.name, namespace=key[0], name=key[1])
        self.metrics.rounds.labels(self.kind.name, result).inc()
        if again is not None:
            self.queue.add(key, again)

    def _round(self, item: Mapping[str, Any], noted: _Noted, due: float) -> float | None:
        desired = self.kind.read(item)
        outcome: Outcome[S] = self.kind.decide(desired, noted.refused, datetime.now(UTC))
        if outcome.status != desired.status:
            self._write(desired, outcome.status, item["metadata"]["resourceVersion"])
        self._count(noted, self.kind.phase(outcome.status))
        self.metrics.delay.labels(self.kind.name).observe(time.monotonic() - due)
        for said in outcome.events:
            self._say(desired, said)
        refused = None
        for action in outcome.actions:
            refused = self._act(action, desired) or refused
        noted.refused = refused
        if refused is not None:
            noted.failures += 1
            return min(LONGEST_REFUSED_S, 0.5 * 2.0 ** min(noted.failures, 10))
        noted.failures = 0
        return outcome.again_s

    def _write(self, desired: D, status: ApiModel, version: str) -> None:
        meta = {"name": desired.name, "namespace": desired.namespace, "resourceVersion": version}
        body = {"apiVersion": API_VERSION, "kind": self.kind.name, "metadata": meta, "status": status.to_api()}
        self.api.apply(body, subresource="status", force=True)

    def _act(self, action: Action, desired: D) -> Refusal | None:
        """Does an action; returns what the API server has against a child (a name that is taken, a wrong field)."""
        match action:
            case Delete(version, kind, name, uid, now):
                self.api.delete(version, kind, desired.namespace, name, uid, now=now)
                return None
            case Note(name, uid, annotations):
                self.api.annotate("v1", "Pod", desired.namespace, name, uid, annotations)
                return None
            case Apply(manifest, force):
                try:
                    self.api.apply(manifest, force=force)
                except ApiError as error:
                    return _refusal(manifest, error, present=False)
            case Create(manifest):
                try:
                    self.api.create(manifest)
                except ApiError as error:
                    if error.status == 409:
                        return self._unless_ours(manifest, desired, error)
                    return _refusal(manifest, error, present=False)
        return None

    def _unless_ours(self, manifest: Mapping[str, Any], desired: D, error: ApiError) -> Refusal | None:
        """What is there under a child's name may be the child itself, which the watch has not told yet."""
        meta = manifest["metadata"]
        there = self.api.get(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])
        owners = (there or {}).get("metadata", {}).get("ownerReferences") or ()
        if there is None or any(owner["uid"] == desired.uid for owner in owners):
            return None
        return _refusal(manifest, error, present=True)

    def _say(self, desired: D, said: Say) -> None:
        """An event; one that cannot be written is not worth a second try, the status says the same."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.metrics.events.labels(self.kind.name, said.reason).inc()
        about = {"kind": self.kind.name, "namespace": desired.namespace, "name": desired.name}
        log.info("operator.event", **about, reason=str(said.reason), message=said.message[:1000])
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{desired.name}.{uuid.uuid4().hex[:16]}", "namespace": desired.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": self.kind.name,
                "namespace": desired.namespace,
                "name": desired.name,
                "uid": desired.uid,
            },
            "type": said.type,
            "reason": str(said.reason),
            "message": said.message[:1000],
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self.api.create(event)
        except ApiError as error:
            log.warning("operator.event_lost", reason=said.reason, error=str(error))

    def _count(self, noted: _Noted, phase: str) -> None:
        if noted.phase != phase:
            if noted.phase:
                self.metrics.objects.labels(self.kind.name, noted.phase).dec()
            self.metrics.objects.labels(self.kind.name, phase).inc()
            noted.phase = phase

    def _forget(self, key: Key) -> None:
        noted = self._noted.pop(key, None)
        if noted is not None and noted.phase:
            self.metrics.objects.labels(self.kind.name, noted.phase).dec()


def _refusal(manifest: Mapping[str, Any], error: ApiError, *, present: bool) -> Refusal:
    """Raises the error where it is about the server and not about the child."""
    if error.status not in (400, 403, 409, 422):
        raise error
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    message = f"{what}: another object has this name" if present else f"{what}: {error}"
    return Refusal(message, for_good=error.status in (400, 422) and not present)
