"""Reconcile passes over the objects of one kind: read, decide, write the status, then act.

A pass reads the cache, which costs the API server nothing. Only if it would change anything does it read the API
server's own state, decide again, and carry that decision out: nothing is written that was decided on outdated state.
The status is written first, and only over the version that was read, so that the API server refuses a decision that
another change has overtaken before any action is taken. What differs between kinds is in their `Reconciler`.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

import structlog

from operators.kube import ApiError, KubeApi
from operators.metrics import OperatorMetrics
from operators.objects import MANAGER, DesiredState, Reader, desired_state, owned_by
from operators.reconciliation import Action, Annotate, Apply, Create, Delete, Event, Reconciliation, Refusal
from operators.resources.base import API_VERSION, ApiModel, Manifest, Status, timestamp
from operators.store import Key
from operators.workqueue import Queue

log = structlog.get_logger(__name__)

LONGEST_WAIT_S = 60.0
LONGEST_REFUSED_S = 15.0
LONGEST_MESSAGE = 1000

Spec = TypeVar("Spec", bound=ApiModel)
Observed = TypeVar("Observed")
S = TypeVar("S", bound=Status)


@dataclass(frozen=True)
class Reconciler(Generic[Spec, Observed, S]):
    """How objects of a kind are reconciled: `observe` reads the cluster, `reconcile` is a pure function.

    `observe` reads from the given reader, and also receives the refusal of the previous pass. In a phase of
    `final_phases` an object stays as it is.
    """

    kind: str
    spec: type[Spec]
    status: type[S]
    observe: Callable[[Reader, DesiredState[Spec, S], Refusal | None], Observed]
    reconcile: Callable[[Observed, DesiredState[Spec, S], datetime], Reconciliation[S]]
    final_phases: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Decision(Generic[Spec, S]):
    """What a pass decided about an object of this version."""

    desired: DesiredState[Spec, S]
    version: str
    outcome: Reconciliation[S]

    @property
    def changes(self) -> bool:
        """Whether it writes anything."""
        outcome = self.outcome
        return bool(outcome.actions or outcome.events) or outcome.status != self.desired.status


@dataclass
class _Memory:
    """State of an object between passes. It is lost with the process; nothing depends on it."""

    refused: Refusal | None = None
    failures: int = 0
    phase: str = ""


@dataclass
class Controller(Generic[Spec, Observed, S]):
    """Threads that reconcile the objects of one kind.

    `cache` is what the watches have seen, `current` the API server's own state; both are `api` in a test of one pass.
    """

    reconciler: Reconciler[Spec, Observed, S]
    api: KubeApi
    metrics: OperatorMetrics
    cache: Reader
    current: Reader
    queue: Queue[Key] = field(default_factory=Queue)
    _memory: dict[Key, _Memory] = field(default_factory=dict)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The reconciled kind."""
        return self.reconciler.kind

    def start(self, threads: int) -> None:
        """Start the worker threads."""
        for number in range(threads):
            thread = threading.Thread(target=self._work, name=f"{self.kind}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop the worker threads after their current passes."""
        self.queue.close()
        for thread in self._threads:
            thread.join()

    def alive(self) -> bool:
        """Return whether every worker thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def unfinished(self) -> list[Key]:
        """Return the objects that were not in a final phase after their last pass."""
        return [key for key, memory in list(self._memory.items()) if memory.phase not in self.reconciler.final_phases]

    def _work(self) -> None:
        while (taken := self.queue.take()) is not None:
            key, due = taken
            try:
                self.reconcile(key, due)
            finally:
                self.queue.done(key)

    def reconcile(self, key: Key, due: float) -> None:
        """Run one pass for an object that was due at `due` (monotonic clock), and queue the next one."""
        memory = self._memory.setdefault(key, _Memory())
        try:
            outcome = self._decide(self.cache, key, memory)
            if outcome is not None and outcome.changes:
                outcome = self._decide(self.current, key, memory)
            if outcome is None:
                self._forget(key)
                return
            requeue_after_s = self._carry_out(outcome, memory, due)
            result = "done"
        except ApiError as error:
            memory.failures += 1
            requeue_after_s = min(LONGEST_WAIT_S, 0.25 * 2.0 ** min(memory.failures, 10))
            # Changed or deleted during the pass: the next pass reads the new state.
            result = "stale" if error.status in (404, 409) else "refused"
            if result == "refused":
                log.warning("operator.refused", kind=self.kind, namespace=key[0], name=key[1], error=str(error))
        except Exception:
            memory.failures += 1
            requeue_after_s = LONGEST_WAIT_S
            result = "defect"
            log.exception("operator.defect", kind=self.kind, namespace=key[0], name=key[1])
        self.metrics.rounds.labels(self.kind, result).inc()
        if requeue_after_s is not None:
            self.queue.add(key, requeue_after_s)

    def _decide(self, reader: Reader, key: Key, memory: _Memory) -> _Decision[Spec, S] | None:
        """Return the decision on what `reader` holds; None if the object does not exist."""
        item = reader.get(API_VERSION, self.kind, *key)
        if item is None:
            return None
        desired = desired_state(item, self.reconciler.spec, self.reconciler.status)
        observed = self.reconciler.observe(reader, desired, memory.refused)
        outcome = self.reconciler.reconcile(observed, desired, datetime.now(UTC))
        return _Decision(desired, item["metadata"]["resourceVersion"], outcome)

    def _carry_out(self, decision: _Decision[Spec, S], memory: _Memory, due: float) -> float | None:
        """Return the seconds until the next pass."""
        desired, outcome = decision.desired, decision.outcome
        if outcome.status != desired.status:
            self._write_status(desired, outcome.status, decision.version)
        self._count_phase(memory, outcome.status.phase)
        self.metrics.delay.labels(self.kind).observe(time.monotonic() - due)
        for event in outcome.events:
            self._write_event(desired, event)
        refused = None
        for action in outcome.actions:
            refused = self._act(action, desired) or refused
        memory.refused = refused
        if refused is not None:
            memory.failures += 1
            return min(LONGEST_REFUSED_S, 0.5 * 2.0 ** min(memory.failures, 10))
        memory.failures = 0
        return outcome.requeue_after_s

    def _write_status(self, desired: DesiredState[Spec, S], status: S, version: str) -> None:
        meta = {"name": desired.name, "namespace": desired.namespace, "resourceVersion": version}
        body = {"apiVersion": API_VERSION, "kind": self.kind, "metadata": meta, "status": status.to_api()}
        self.api.apply(body, subresource="status", force=True)

    def _act(self, action: Action, desired: DesiredState[Spec, S]) -> Refusal | None:
        """Take an action; return the API server's refusal of an owned object (name taken, invalid field)."""
        match action:
            case Delete(version, kind, name, uid, now):
                self.api.delete(version, kind, desired.namespace, name, uid, now=now)
                return None
            case Annotate(name, uid, annotations):
                self.api.annotate("v1", "Pod", desired.namespace, name, uid, annotations)
                return None
            case Apply(manifest, force):
                try:
                    self.api.apply(manifest, force=force)
                except ApiError as error:
                    return _refusal(manifest, error, name_taken=False)
            case Create(manifest):
                try:
                    self.api.create(manifest)
                except ApiError as error:
                    if error.status == 409:
                        return self._refusal_unless_owned(manifest, desired, error)
                    return _refusal(manifest, error, name_taken=False)
        return None

    def _refusal_unless_owned(
        self, manifest: Manifest, desired: DesiredState[Spec, S], error: ApiError
    ) -> Refusal | None:
        """Accept an existing object that belongs to `desired`: an earlier pass created it."""
        meta = manifest["metadata"]
        existing = self.api.get(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])
        if existing is None or owned_by(existing, desired.uid):
            return None
        return _refusal(manifest, error, name_taken=True)

    def _write_event(self, desired: DesiredState[Spec, S], event: Event) -> None:
        """Write an event. A failure is logged and not retried, since the status holds the same information."""
        now = timestamp(datetime.now(UTC))
        message = event.message[:LONGEST_MESSAGE]
        self.metrics.events.labels(self.kind, event.reason, event.type).inc()
        about = {"kind": self.kind, "namespace": desired.namespace, "name": desired.name}
        log.info("operator.event", **about, reason=str(event.reason), message=message)
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{desired.name}.{uuid.uuid4().hex[:16]}", "namespace": desired.namespace},
            "involvedObject": {"apiVersion": API_VERSION, **about, "uid": desired.uid},
            "type": event.type,
            "reason": str(event.reason),
            "message": message,
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self.api.create(body)
        except ApiError as error:
            log.warning("operator.event_lost", reason=event.reason, error=str(error))

    def _count_phase(self, memory: _Memory, phase: str) -> None:
        if memory.phase != phase:
            if memory.phase:
                self.metrics.objects.labels(self.kind, memory.phase).dec()
            self.metrics.objects.labels(self.kind, phase).inc()
            memory.phase = phase

    def _forget(self, key: Key) -> None:
        memory = self._memory.pop(key, None)
        if memory is not None and memory.phase:
            self.metrics.objects.labels(self.kind, memory.phase).dec()


def _refusal(manifest: Manifest, error: ApiError, *, name_taken: bool) -> Refusal:
    """Convert an error about an owned object; raise any other error again."""
    if error.status not in (400, 403, 409, 422):
        raise error
    which = f"{manifest['kind']} {manifest['metadata']['name']}"
    message = f"{which}: another object has this name" if name_taken else f"{which}: {error}"
    return Refusal(message, permanent=error.status in (400, 422) and not name_taken)
