"""The operator's process: watches queue the objects that a change concerns, and the leading replica reconciles them.

The watch handlers decide nothing; see `operators.controller`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from kubernetes import client
from prometheus_client import start_http_server

from mechanism.errors import InputError
from operators import watched
from operators.auctionservice import observe as auctionservice
from operators.auctionservice.reconcile import reconcile as reconcile_auctionservice
from operators.cache import Cache, Current
from operators.controller import Controller, Reconciler
from operators.health import HealthServer
from operators.informer import Changed, Watched
from operators.irpojob import observe as irpojob
from operators.irpojob.reconcile import reconcile as reconcile_irpojob
from operators.kube import ApiError, KubeApi, read_report
from operators.lease import Lease
from operators.metrics import OperatorMetrics
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus
from operators.resources.base import API_VERSION, Manifest
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.retrainpolicy import observe as retrainpolicy
from operators.retrainpolicy.reconcile import reconcile as reconcile_retrainpolicy
from operators.store import Key, key_of

log = structlog.get_logger(__name__)

CRD_WAIT_S = 120.0
POLL_S = 0.5

IRPOJobReconciler = Reconciler[IRPOJobSpec, irpojob.Observed, IRPOJobStatus]
ServiceReconciler = Reconciler[AuctionServiceSpec, auctionservice.Observed, AuctionServiceStatus]
PolicyReconciler = Reconciler[RetrainPolicySpec, retrainpolicy.Observed, RetrainPolicyStatus]


def irpojob_reconciler() -> IRPOJobReconciler:
    """Return the reconciler of IRPOJobs."""
    final = ("Complete", "Failed")
    return Reconciler("IRPOJob", IRPOJobSpec, IRPOJobStatus, irpojob.observe, reconcile_irpojob, final)


def auctionservice_reconciler(observer: auctionservice.Observer) -> ServiceReconciler:
    """Return the reconciler of AuctionServices."""
    return Reconciler(
        "AuctionService", AuctionServiceSpec, AuctionServiceStatus, observer.observe, reconcile_auctionservice
    )


def retrainpolicy_reconciler() -> PolicyReconciler:
    """Return the reconciler of RetrainPolicies."""
    return Reconciler(
        "RetrainPolicy", RetrainPolicySpec, RetrainPolicyStatus, retrainpolicy.observe, reconcile_retrainpolicy
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the process. No namespaces: all. Addresses are HOST:PORT; an empty one switches the server off.

    `lease` is the NAMESPACE/NAME of the Lease by which one of several replicas leads; empty: this process leads.
    """

    namespaces: tuple[str, ...] = ()
    threads: int = 4
    metrics: str = ""
    health: str = ""
    lease: str = ""


class Operator:
    """All watches and controllers over one connection. `run` blocks until a signal or `stop` ends it."""

    def __init__(self, connection: client.ApiClient, settings: Settings) -> None:
        self.settings = settings
        self.metrics = OperatorMetrics()
        self.api = KubeApi(connection, self._count_call, self._may_write)
        self.lease = Lease(self.api, *lease_name(settings.lease)) if settings.lease else None
        self.cache = Cache(self.api, self._watches(), settings.namespaces)
        readers = self.cache, Current(self.api, self.cache)
        observer = auctionservice.Observer(read_report)
        self.irpojobs = Controller(irpojob_reconciler(), self.api, self.metrics, *readers)
        self.services = Controller(auctionservice_reconciler(observer), self.api, self.metrics, *readers)
        self.policies = Controller(retrainpolicy_reconciler(), self.api, self.metrics, *readers)
        self._candidate = self._leading = False
        self._stop = threading.Event()

    def run(self) -> None:
        """Watch and, while this replica leads, reconcile until stopped.

        An ApiError ends it if the API server keeps refusing the operator's credentials or lacks its kinds, or if
        another replica may have taken over; an InputError if an address is malformed or in use.
        """
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            wait_for_definitions(self.api, self._stop)
            self._start_servers(stack)
            self.cache.start()
            stack.callback(self.cache.stop)
            if not self._wait_until(self.cache.synced):
                return
            if self.lease is not None:  # not before: a holder that knows nothing would keep the others from leading
                self.lease.start()
                stack.callback(self.lease.stop)
                self._candidate = True
            if self._wait_until(self._may_write):
                self._lead(stack)
                self._wait_while_leading()

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop at SIGTERM and Ctrl+C; only the main thread can set that."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = [signal.signal(number, lambda *_: self.stop()) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _start_servers(self, stack: ExitStack) -> None:
        if self.settings.metrics:
            host, port = address(self.settings.metrics, "--metrics")
            with _address_in_use("--metrics", self.settings.metrics):
                server, _ = start_http_server(port, host, self.metrics.registry)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        if self.settings.health:
            host, port = address(self.settings.health, "--health")
            checks = {"/healthz": self._healthy, "/readyz": self.cache.synced}
            with _address_in_use("--health", self.settings.health):
                health = HealthServer(host, port, checks)
            stack.callback(health.close)

    def _healthy(self) -> bool:
        leases = self.lease is None or self.lease.alive or not self._candidate
        return leases and self.cache.alive() and all(one.alive() for one in self._controllers() if self._leading)

    def _controllers(self) -> tuple[Controller[Any, Any, Any], ...]:
        return self.irpojobs, self.services, self.policies

    def _may_write(self) -> bool:
        return self.lease is None or self.lease.held()

    def _count_call(self, verb: str, resource: str) -> None:
        self.metrics.calls.labels(verb, resource).inc()

    # -- leading ---------------------------------------------------------------------------------------------------

    def _wait_until(self, holds: Callable[[], bool]) -> bool:
        """Wait until `holds()`; return False if the process is stopped before."""
        while not self._stop.wait(POLL_S):
            self._check_credentials()
            if holds():
                return True
        return False

    def _lead(self, stack: ExitStack) -> None:
        log.info("operator.leading", lease=self.settings.lease, objects=len(self.cache.keys(API_VERSION, "IRPOJob")))
        self._leading = True
        self.metrics.leading.set(1)
        for controller in self._controllers():
            for key in self.cache.keys(API_VERSION, controller.kind):
                controller.queue.add(key)
            controller.start(self.settings.threads)
            stack.callback(controller.stop)

    def _wait_while_leading(self) -> None:
        while not self._stop.wait(POLL_S):
            self._check_credentials()
            if not self._may_write():
                # A new process begins without what this one believes; until then its writes are refused.
                raise ApiError(0, f"lease {self.settings.lease} could not be renewed: another replica may lead by now")

    def _check_credentials(self) -> None:
        if self.cache.refused():
            raise ApiError(
                401, "the API server refuses the operator's credentials: check its service account and token"
            )

    # -- watches ---------------------------------------------------------------------------------------------------

    def _watches(self) -> dict[Watched, Changed | None]:
        """Return what is watched, and what each change of an object queues."""
        return {
            watched.IRPOJOBS: self._irpojob_changed,
            watched.SERVICES: self._service_changed,
            watched.POLICIES: self._policy_changed,
            watched.NODES: self._node_changed,
            watched.JOBS_OF_IRPOJOBS: self._job_changed,
            watched.JOBS_OF_POLICIES: self._object_of_policy_changed,
            **dict.fromkeys(watched.PODS),
            **dict.fromkeys(watched.OBJECTS_OF_SERVICES, self._object_of_service_changed),
        }

    def _queue(self, controller: Controller[Any, Any, Any], key: Key) -> None:
        if self._leading:
            controller.queue.add(key)

    def _irpojob_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        item = _latest(before, after)
        self._queue(self.irpojobs, key_of(item))
        if retrainpolicy.POLICY_LABEL in (item["metadata"].get("labels") or {}):
            self._object_of_policy_changed(before, after)

    def _service_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        key = key_of(_latest(before, after))
        self._queue(self.services, key)
        for policy in self.policies.unfinished():  # they may be waiting for its stable version
            if policy[0] == key[0]:
                self._queue(self.policies, policy)

    def _policy_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        self._queue(self.policies, key_of(_latest(before, after)))

    def _job_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        self._queue(self.irpojobs, _owner(_latest(before, after), irpojob.JOB_LABEL))

    def _object_of_policy_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        self._queue(self.policies, _owner(_latest(before, after), retrainpolicy.POLICY_LABEL))

    def _object_of_service_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        item = _latest(before, after)
        # Deployments report their pods; the others matter only when they are gone.
        if after is None or item["kind"] == "Deployment":
            self._queue(self.services, _owner(item, auctionservice.SERVICE_LABEL))

    def _node_changed(self, before: Manifest | None, after: Manifest | None) -> None:
        """Queue all unfinished IRPOJobs when a node's readiness changes, which is rare."""
        states = [None if item is None else irpojob.not_ready_since(item) is None for item in (before, after)]
        if states[0] != states[1]:
            for key in self.irpojobs.unfinished():
                self._queue(self.irpojobs, key)


def _latest(before: Manifest | None, after: Manifest | None) -> Manifest:
    item = after if after is not None else before
    assert item is not None
    return item


def _owner(item: Manifest, label: str) -> Key:
    """Return the key of the object that a label names."""
    return item["metadata"]["namespace"], item["metadata"]["labels"][label]


@contextmanager
def _address_in_use(option: str, value: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = f"give a free HOST:PORT, or an empty one for no {option.strip('-')}"
        raise InputError(option, value, f"{error.strerror or error}: {remedy}") from error


def address(text: str, option: str) -> tuple[str, int]:
    """Parse HOST:PORT; without a host, all interfaces.

    Raises:
        InputError: if the text has another form.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(option, text, "give HOST:PORT, such as 127.0.0.1:9090")
    return host.strip("[]") or "0.0.0.0", int(port)


def lease_name(text: str) -> tuple[str, str]:
    """Parse NAMESPACE/NAME.

    Raises:
        InputError: if the text has another form.
    """
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise InputError("--lease", text, "give NAMESPACE/NAME, such as llm-auction/operator")
    return namespace, name


def wait_for_definitions(api: KubeApi, stop: threading.Event, seconds: float = CRD_WAIT_S) -> None:
    """Wait until the API server serves the operator's kinds, which may be about to be installed, or until `stop`.

    Raises:
        ApiError: if it does not in time, or cannot be reached.
    """
    end = time.monotonic() + seconds
    while not stop.is_set():
        try:
            if api.serves(API_VERSION):
                return
            problem = f"the API server does not know {API_VERSION}: install charts/llm-auction-crds"
        except ApiError as error:
            problem = str(error)
        if time.monotonic() > end:
            raise ApiError(0, problem)
        log.info("operator.waiting", problem=problem)
        stop.wait(2.0)
