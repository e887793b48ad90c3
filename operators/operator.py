"""The operator's process: kopf watches the cluster, and each event queues the object that it concerns.

The watch handlers decide nothing: `operators.controller` reads the current state from the API server.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf
import structlog
from kubernetes import client
from prometheus_client import start_http_server

from mechanism.errors import InputError
from operators.auctionservice import observe as auctionservice
from operators.auctionservice.reconcile import reconcile as reconcile_auctionservice
from operators.controller import Controller, Reconciler
from operators.irpojob import observe as irpojob
from operators.irpojob.reconcile import reconcile as reconcile_irpojob
from operators.kube import ApiError, KubeApi, read_report
from operators.metrics import OperatorMetrics
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus
from operators.resources.base import API_VERSION, GROUP, VERSION
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.retrainpolicy import observe as retrainpolicy
from operators.retrainpolicy.reconcile import reconcile as reconcile_retrainpolicy

log = structlog.get_logger(__name__)

RETRIES_S = (1, 1, 2, 3, 5, 8, 13, 21, *[30] * 1000)
"""Waits between attempts to reach an unavailable API server; after the last one the process exits and is restarted."""
CRD_WAIT_S = 120.0
MAX_LOGINS, LOGIN_WINDOW_S = 4, 120.0
LOGIN_LASTS = timedelta(minutes=30)
"""How long kopf uses a login. Then the token is read again, because Kubernetes renews a pod's within the hour."""

IRPOJobReconciler = Reconciler[IRPOJobSpec, irpojob.Observed, IRPOJobStatus]
ServiceReconciler = Reconciler[AuctionServiceSpec, auctionservice.Observed, AuctionServiceStatus]
PolicyReconciler = Reconciler[RetrainPolicySpec, retrainpolicy.Observed, RetrainPolicyStatus]


def irpojob_reconciler(observer: irpojob.Observer) -> IRPOJobReconciler:
    """Return the reconciler of IRPOJobs."""
    final = ("Complete", "Failed")
    return Reconciler("IRPOJob", IRPOJobSpec, IRPOJobStatus, observer.observe, reconcile_irpojob, final)


def auctionservice_reconciler(observer: auctionservice.Observer) -> ServiceReconciler:
    """Return the reconciler of AuctionServices."""
    return Reconciler(
        "AuctionService", AuctionServiceSpec, AuctionServiceStatus, observer.observe, reconcile_auctionservice
    )


def retrainpolicy_reconciler(observer: retrainpolicy.Observer) -> PolicyReconciler:
    """Return the reconciler of RetrainPolicies."""
    return Reconciler(
        "RetrainPolicy", RetrainPolicySpec, RetrainPolicyStatus, observer.observe, reconcile_retrainpolicy
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the process. No namespaces: all. Addresses are HOST:PORT; an empty one switches the server off."""

    namespaces: tuple[str, ...] = ()
    threads: int = 4
    metrics: str = ""
    health: str = ""


class Operator:
    """All controllers over one connection. `run` blocks until a signal or `stop` ends it."""

    def __init__(self, connection: client.ApiClient, settings: Settings) -> None:
        self.settings = settings
        self.metrics = OperatorMetrics()
        self.connection = connection
        self.api = KubeApi(connection, lambda verb, resource: self.metrics.calls.labels(verb, resource).inc())
        self.nodes: dict[str, datetime | None] = {}
        """Since when each watched node has not been Ready, None if it is."""
        self.irpojobs = Controller(
            irpojob_reconciler(irpojob.Observer(self.api, lambda: self.nodes)), self.api, self.metrics
        )
        self.services = Controller(
            auctionservice_reconciler(auctionservice.Observer(self.api, read_report)), self.api, self.metrics
        )
        self.policies = Controller(retrainpolicy_reconciler(retrainpolicy.Observer(self.api)), self.api, self.metrics)
        self._stop = threading.Event()
        self._logins: list[float] = []
        self._refused = False

    def run(self) -> None:
        """Watch and reconcile until stopped.

        Raises:
            ApiError: if the API server keeps refusing the operator's credentials, or lacks its kinds.
            InputError: if an address is malformed or in use.
        """
        wait_for_definitions(self.api)
        server = None
        if self.settings.metrics:
            host, port = address(self.settings.metrics, "--metrics")
            try:
                server, _ = start_http_server(port, host, self.metrics.registry)
            except OSError as error:
                remedy = "give a free HOST:PORT, or an empty one for no metrics"
                raise InputError("--metrics", self.settings.metrics, f"{error.strerror or error}: {remedy}") from error
        if self.settings.health:
            address(self.settings.health, "--health")
        try:
            kopf.run(
                registry=self._registry(),
                settings=kopf_settings(),
                standalone=True,
                clusterwide=not self.settings.namespaces,
                namespaces=self.settings.namespaces,
                liveness_endpoint=f"http://{self.settings.health}/healthz" if self.settings.health else None,
                stop_flag=self._stop,
            )
        finally:
            if server is not None:
                server.shutdown()
                server.server_close()
        if self._refused:
            raise ApiError(
                401, "the API server refuses the operator's credentials: check its service account and token"
            )

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.startup(registry=registry)(self._start)
        kopf.on.cleanup(registry=registry)(self._clean_up)
        kopf.on.event(GROUP, VERSION, "irpojobs", registry=registry)(self._irpojob_changed)
        kopf.on.event(GROUP, VERSION, "auctionservices", registry=registry)(self._service_changed)
        kopf.on.event(GROUP, VERSION, "retrainpolicies", registry=registry)(self._policy_changed)
        of_policies = {retrainpolicy.POLICY_LABEL: kopf.PRESENT}
        kopf.on.event(GROUP, VERSION, "irpojobs", labels=of_policies, registry=registry)(self._object_of_policy_changed)
        kopf.on.event("batch", "v1", "jobs", labels=of_policies, registry=registry)(self._object_of_policy_changed)
        of_services = {auctionservice.SERVICE_LABEL: kopf.PRESENT}
        kopf.on.event("apps", "v1", "deployments", labels=of_services, registry=registry)(self._deployment_changed)
        of_irpojobs = {irpojob.JOB_LABEL: kopf.PRESENT}
        kopf.on.event("batch", "v1", "jobs", labels=of_irpojobs, registry=registry)(self._job_changed)
        kopf.on.event("", "v1", "nodes", registry=registry)(self._node_changed)
        return registry

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        """Give kopf the connection that the controllers use.

        Each login gets a new expiry, so that kopf takes it for new credentials: kopf never retries credentials that
        were refused once, and an API server that is starting may refuse valid ones. Repeated refusals end the process,
        which is then restarted.
        """
        now = time.monotonic()
        self._logins = [*(at for at in self._logins if now - at < LOGIN_WINDOW_S), now]
        if len(self._logins) > MAX_LOGINS:
            # An exception here would end kopf's logins only.
            self._refused = True
            self._stop.set()
        elif len(self._logins) > 1:
            await asyncio.sleep(2.0 ** len(self._logins))
        config = self.connection.configuration
        header = config.get_api_key_with_prefix("BearerToken") or config.get_api_key_with_prefix("authorization")
        return kopf.ConnectionInfo(
            server=config.host,
            ca_path=config.ssl_ca_cert,
            insecure=not config.verify_ssl,
            certificate_path=config.cert_file,
            private_key_path=config.key_file,
            scheme="Bearer" if header else None,
            token=header.rpartition(" ")[2] if header else None,
            expiration=datetime.now(UTC) + LOGIN_LASTS,
        )

    async def _start(self, **_: Any) -> None:
        self.irpojobs.start(self.settings.threads)
        self.services.start(self.settings.threads)
        self.policies.start(self.settings.threads)

    async def _clean_up(self, **_: Any) -> None:
        self._stop.set()  # kopf has a thread that waits for it and would keep the process alive after a signal
        self.irpojobs.stop()
        self.services.stop()
        self.policies.stop()

    async def _irpojob_changed(self, namespace: str | None, name: str, **_: Any) -> None:
        assert namespace is not None
        self.irpojobs.queue.add((namespace, name))

    async def _policy_changed(self, namespace: str | None, name: str, **_: Any) -> None:
        assert namespace is not None
        self.policies.queue.add((namespace, name))

    async def _object_of_policy_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        assert namespace is not None
        self.policies.queue.add((namespace, labels[retrainpolicy.POLICY_LABEL]))

    async def _service_changed(self, namespace: str | None, name: str, **_: Any) -> None:
        assert namespace is not None
        self.services.queue.add((namespace, name))
        for key in self.policies.unfinished():  # they may be waiting for its stable version
            if key[0] == namespace:
                self.policies.queue.add(key)

    async def _deployment_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        assert namespace is not None
        self.services.queue.add((namespace, labels[auctionservice.SERVICE_LABEL]))

    async def _job_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        assert namespace is not None
        self.irpojobs.queue.add((namespace, labels[irpojob.JOB_LABEL]))

    async def _node_changed(self, name: str, type: str, body: Mapping[str, Any], **_: Any) -> None:
        """Queue all unfinished IRPOJobs when a node's readiness changes, which is rare."""
        before = self.nodes.get(name)
        if type == "DELETED":
            self.nodes.pop(name, None)
            changed = True
        else:
            self.nodes[name] = irpojob.not_ready_since(dict(body))
            changed = (before is None) != (self.nodes[name] is None)
        if changed:
            for key in self.irpojobs.unfinished():
                self.irpojobs.queue.add(key)


def address(text: str, option: str) -> tuple[str, int]:
    """Parse HOST:PORT; without a host, all interfaces.

    Raises:
        InputError: if the text has another form.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(option, text, "give HOST:PORT, such as 127.0.0.1:9090")
    return host.strip("[]") or "0.0.0.0", int(port)


def kopf_settings() -> kopf.OperatorSettings:
    """Return settings with which kopf only watches: no events, no annotations, no scan for new kinds."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.networking.error_backoffs = RETRIES_S
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.queueing.idle_timeout = 1.0
    for name in ("kopf.objects", "kopf.activities", "kopf._core", "kopf._cogs"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return settings


def wait_for_definitions(api: KubeApi, seconds: float = CRD_WAIT_S) -> None:
    """Wait until the API server serves the operator's kinds; the same chart may be installing them.

    Raises:
        ApiError: if it does not in time, or cannot be reached.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            if api.serves(API_VERSION):
                return
            problem = f"the API server does not know {API_VERSION}: install charts/llm-auction-crds"
        except ApiError as error:
            problem = str(error)
        if time.monotonic() > end:
            raise ApiError(0, problem)
        log.info("operator.waiting", problem=problem)
        time.sleep(2.0)
