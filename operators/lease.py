"""Leader election: of several replicas, the holder of a Lease reconciles, and the others wait for its end.

The rules are those of Kubernetes' own controllers. A holder renews its Lease every RETRY_S and may write for RENEW_S
after the beginning of its last renewal. Another replica takes a Lease over once it has not seen it change for the
Lease's duration, by its own clock. RENEW_S is shorter than the duration, so no two replicas may write at one time,
however their clocks are set and whichever requests fail, as long as no clock runs half again as fast as another.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import structlog

from operators.kube import ApiError
from operators.resources.base import Manifest

log = structlog.get_logger(__name__)

VERSION = "coordination.k8s.io/v1"
DURATION_S = 15.0
RENEW_S = 10.0
RETRY_S = 2.0


class Leases(Protocol):
    """Reads and writes Leases (`operators.kube.KubeApi`); a write over another version than was read is refused."""

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None if it does not exist."""

    def create(self, manifest: Manifest) -> None:
        """Create an object; an existing one of its name is a conflict (409)."""

    def replace(self, manifest: Manifest) -> None:
        """Replace the version of an object that was read; another one is a conflict (409)."""


def own_identity() -> str:
    """Return a name for this process, which begins with the pod's."""
    return f"{socket.gethostname()}_{os.getpid()}_{uuid.uuid4().hex[:8]}"


class Lease:
    """This process's claim to a Lease. `attempt` is one try to take or renew it; `run` repeats it in a thread."""

    def __init__(
        self,
        api: Leases,
        namespace: str,
        name: str,
        identity: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.namespace, self.name = namespace, name
        self.identity = identity or own_identity()
        self._api, self._clock = api, clock
        self._held_until = float("-inf")
        self._seen: tuple[str, str] | None = None
        """Holder and version of the Lease as last read, and when (`_seen_at`) it first was so."""
        self._seen_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def held(self) -> bool:
        """Return whether this process may write now."""
        return self._clock() < self._held_until

    def attempt(self) -> None:
        """Take or renew the Lease if that is allowed; an ApiError passes through, with 409 if another was first."""
        begun = self._clock()
        item = self._api.get(VERSION, "Lease", self.namespace, self.name)
        if item is None:
            self._api.create(self._manifest({}, {}))
        else:
            spec = item.get("spec") or {}
            if not self._may_take(spec, item["metadata"]["resourceVersion"]):
                return
            self._api.replace(self._manifest(item["metadata"], spec))
        self._held_until = begun + RENEW_S

    def _may_take(self, spec: Manifest, version: str) -> bool:
        holder = str(spec.get("holderIdentity") or "")
        now = self._clock()
        if self._seen != (holder, version):
            self._seen, self._seen_at = (holder, version), now
        if holder in ("", self.identity):
            return True
        return now - self._seen_at >= float(spec.get("leaseDurationSeconds") or DURATION_S)

    def _manifest(self, meta: Manifest, spec: Manifest) -> Manifest:
        now = _micro_time()
        mine = spec.get("holderIdentity") == self.identity
        return {
            "apiVersion": VERSION,
            "kind": "Lease",
            "metadata": {"namespace": self.namespace, "name": self.name, **meta},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": int(DURATION_S),
                "acquireTime": spec.get("acquireTime", now) if mine else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (bool(spec) and not mine),
            },
        }

    def start(self) -> None:
        """Start the thread that takes and renews the Lease."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop renewing, and release the Lease if it is held, so that another replica takes over at once.

        Call it when nothing of this process writes any more.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.held():
            self._held_until = float("-inf")
            try:
                self._release()
            except ApiError as error:
                log.warning("operator.lease_not_released", error=str(error))

    def _release(self) -> None:
        item = self._api.get(VERSION, "Lease", self.namespace, self.name)
        if item is not None and (item.get("spec") or {}).get("holderIdentity") == self.identity:
            item["spec"] = {**item["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            self._api.replace(item)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.attempt()
            except ApiError as error:
                log.info("operator.lease_attempt_failed", lease=f"{self.namespace}/{self.name}", error=str(error)[:500])
            self._stop.wait(RETRY_S)


def _micro_time() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
