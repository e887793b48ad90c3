"""The operator as a program: kopf watches, and every event of an object or its children has that object looked at.

The handlers decide nothing; what is looked at is read anew from the API server by `operators.controller`.
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
from operators.auctionservice.manifests import SERVICE_LABEL
from operators.auctionservice.observe import Sight as ServiceSight
from operators.auctionservice.observe import auctionservice_kind
from operators.auctionservice.observed import Desired as DesiredService
from operators.controller import Controller
from operators.irpojob.observe import Sight, irpojob_kind
from operators.irpojob.observed import JOB_LABEL, Desired, not_ready_since
from operators.kube import ApiError, KubeApi
from operators.metrics import OperatorMetrics
from operators.resources.auctionservice import AuctionServiceStatus
from operators.resources.base import API_VERSION, GROUP, VERSION
from operators.resources.irpojob import IRPOJobStatus
from operators.resources.retrainpolicy import RetrainPolicyStatus
from operators.retrainpolicy.observe import Sight as PolicySight
from operators.retrainpolicy.observe import retrainpolicy_kind
from operators.retrainpolicy.observed import POLICY_LABEL
from operators.retrainpolicy.observed import Desired as DesiredPolicy

log = structlog.get_logger(__name__)

RETRIES_S = (1, 1, 2, 3, 5, 8, 13, 21, *[30] * 1000)
"""Waits between tries to reach an API server that is away; in the end the process gives up and is started anew."""
CRD_WAIT_S = 120.0
MOST_LOGINS, LOGINS_WITHIN_S = 4, 120.0
LOGIN_LASTS = timedelta(minutes=30)
"""Then the token is read anew; Kubernetes renews that of a pod within the hour."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the operator runs. No namespaces: all of them. Addresses as HOST:PORT; empty: none."""

    namespaces: tuple[str, ...] = ()
    threads: int = 4
    metrics: str = ""
    health: str = ""


class Operator:
    """All controllers over one connection. `run` blocks until it is stopped by a signal or by `stop`."""

    def __init__(self, connection: client.ApiClient, settings: Settings) -> None:
        self.settings = settings
        self.metrics = OperatorMetrics()
        self.connection = connection
        self.api = KubeApi(connection, lambda verb, resource: self.metrics.calls.labels(verb, resource).inc())
        self.nodes: dict[str, datetime | None] = {}
        self.irpojobs: Controller[Desired, IRPOJobStatus] = Controller(
            irpojob_kind(Sight(self.api, lambda: self.nodes)), self.api, self.metrics
        )
        self.services: Controller[DesiredService, AuctionServiceStatus] = Controller(
            auctionservice_kind(ServiceSight(self.api)), self.api, self.metrics
        )
        self.policies: Controller[DesiredPolicy, RetrainPolicyStatus] = Controller(
            retrainpolicy_kind(PolicySight(self.api)), self.api, self.metrics
        )
        self._stop = threading.Event()
        self._logins: list[float] = []
        self._refused = False

    def run(self) -> None:
        """Watches and reconciles. Raises ApiError where the API server refuses the operator's credentials for good."""
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
                settings=quiet_settings(),
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
            raise ApiError(401, "the API server refuses the operator's credentials: see its service account and token")

    def stop(self) -> None:
        """Has `run` return."""
        self._stop.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.startup(registry=registry)(self._startup)
        kopf.on.cleanup(registry=registry)(self._cleanup)
        kopf.on.event(GROUP, VERSION, "irpojobs", registry=registry)(self._irpojob_changed)
        kopf.on.event(GROUP, VERSION, "auctionservices", registry=registry)(self._service_changed)
        kopf.on.event(GROUP, VERSION, "retrainpolicies", registry=registry)(self._policy_changed)
        ours = {POLICY_LABEL: kopf.PRESENT}
        kopf.on.event(GROUP, VERSION, "irpojobs", labels=ours, registry=registry)(self._policy_child_changed)
        kopf.on.event("batch", "v1", "jobs", labels=ours, registry=registry)(self._policy_child_changed)
        marked = {SERVICE_LABEL: kopf.PRESENT}
        kopf.on.event("apps", "v1", "deployments", labels=marked, registry=registry)(self._deployment_changed)
        kopf.on.event("batch", "v1", "jobs", labels={JOB_LABEL: kopf.PRESENT}, registry=registry)(self._child_changed)
        kopf.on.event("", "v1", "nodes", registry=registry)(self._node_changed)
        return registry

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        """The connection that the actions use, for the watches. Each time another one by its expiry: kopf takes none
        again that was refused once, and an API server that starts may refuse what is good. One that refuses again and
        again ends the process, which is then started anew."""
        now = time.monotonic()
        self._logins = [*(at for at in self._logins if now - at < LOGINS_WITHIN_S), now]
        if len(self._logins) > MOST_LOGINS:
            # to raise here would end kopf's logins and nothing else
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

    async def _startup(self, **_: Any) -> None:
        self.irpojobs.start(self.settings.threads)
        self.services.start(self.settings.threads)
        self.policies.start(self.settings.threads)

    async def _cleanup(self, **_: Any) -> None:
        self._stop.set()  # kopf's thread that waits for it would keep the process alive after a signal
        self.irpojobs.stop()
        self.services.stop()
        self.policies.stop()

    async def _irpojob_changed(self, namespace: str | None, name: str, **_: Any) -> None:
        assert namespace is not None
        self.irpojobs.queue.add((namespace, name))

    async def _policy_changed(self, namespace: str | None, name: str, **_: Any) -> None:
        assert namespace is not None
        self.policies.queue.add((namespace, name))

    async def _policy_child_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        assert namespace is not None
        self.policies.queue.add((namespace, labels[POLICY_LABEL]))

    async def _service_changed(self, namespace: str | None, name: str, **_: Any) -> None:
        assert namespace is not None
        self.services.queue.add((namespace, name))
        for key in self.policies.unfinished():  # they may wait for its stable version
            if key[0] == namespace:
                self.policies.queue.add(key)

    async def _deployment_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        assert namespace is not None
        self.services.queue.add((namespace, labels[SERVICE_LABEL]))

    async def _child_changed(self, namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        assert namespace is not None
        self.irpojobs.queue.add((namespace, labels[JOB_LABEL]))

    async def _node_changed(self, name: str, type: str, body: Mapping[str, Any], **_: Any) -> None:
        """A node that goes silent, comes back or goes concerns every job with a pod on it: few nodes do, so all."""
        before = self.nodes.get(name)
        if type == "DELETED":
            self.nodes.pop(name, None)
            changed = True
        else:
            self.nodes[name] = not_ready_since(body)
            changed = (before is None) != (self.nodes[name] is None)
        if changed:
            for key in self.irpojobs.unfinished():
                self.irpojobs.queue.add(key)


def address(text: str, option: str) -> tuple[str, int]:
    """Host (all where it is left out) and port. Raises InputError."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(option, text, "give HOST:PORT, such as 127.0.0.1:9090")
    return host.strip("[]") or "0.0.0.0", int(port)


def quiet_settings() -> kopf.OperatorSettings:
    """Kopf only watches: it posts no events, keeps no notes on objects, and looks for no new kinds."""
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
    """Returns once the API server knows our kinds; they may be on their way with the same chart.

    Raises ApiError where it does not in time, or cannot be reached.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            if api.serves(API_VERSION):
                return
            problem = f"the API server does not know {API_VERSION}: apply charts/llm-auction/crds"
        except ApiError as error:
            problem = str(error)
        if time.monotonic() > end:
            raise ApiError(0, problem)
        log.info("operator.waiting", problem=problem)
        time.sleep(2.0)
