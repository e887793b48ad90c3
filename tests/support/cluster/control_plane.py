"""etcd and a Kubernetes API server, optionally with the controller manager and the scheduler.

The API server requires client certificates, authorises by roles (RBAC) and listens on one address of this machine.
`node` adds a real node, `kwok` simulated ones.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

from tests.support.cluster import tools
from tests.support.cluster.certificates import MASTERS, Authority
from tests.support.cluster.processes import ClusterFailed, Processes
from tests.support.ports import free_ports

START_S = 120.0
"""Limit of a start, which takes seconds on an idle machine."""
ATTEMPTS = 3
QUICK = ("--kube-api-qps=500", "--kube-api-burst=1000")
"""Controllers limit themselves to 20 requests a second by default, which slows large tests down."""


@dataclass(frozen=True, slots=True)
class Network:
    """Where the control plane listens and which addresses it assigns.

    address   on which it listens
    ports     of the API server, etcd and etcd's peers; 0: a free one
    services  address range of services
    pods      address range of pods
    machine   address under which pods reach servers of this machine
    """

    address: str = "127.0.0.1"
    ports: tuple[int, int, int] = (0, 0, 0)
    services: str = "10.96.0.0/16"
    pods: str = "10.244.0.0/16"
    machine: str = "127.0.0.1"


class ControlPlane:
    """One control plane, started by entering its context, stopped and removed by leaving it.

    controllers   also run the controller manager and the scheduler; without them nothing acts on the objects, and
                  pods need no service account
    node_grace_s  seconds without a heartbeat after which a node is NotReady
    """

    def __init__(
        self,
        *,
        controllers: bool = False,
        node_grace_s: int = 20,
        network: Network | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._programs = {name: tools.locate(name) for name in ("etcd", "kube-apiserver", "kubectl")}
        if controllers:
            names = ("kube-controller-manager", "kube-scheduler")
            self._programs |= {name: tools.locate(name) for name in names}
        self.network = network or Network()
        self._node_grace_s = node_grace_s
        self._controllers = controllers
        self.processes = processes or Processes()
        try:
            self.authority = Authority(self.folder / "certificates")
            hosts = [self.network.address, "127.0.0.1", "localhost", "kubernetes", "kubernetes.default"]
            services = ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local", _first(self.network.services)]
            self._server = self.authority.server("server", [*hosts, *services])
            self._accounts = self.authority.service_account_key()
            self._kubelets = self.authority.client("kube-apiserver", [MASTERS])
            self._port, self._etcd, self._peers = self._take_ports()
        except BaseException:
            self.processes.close()
            raise

    def __enter__(self) -> ControlPlane:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """The cluster's folder, with its logs in `logs/`."""
        return self.processes.folder

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{self.network.address}:{self._port}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig file."""
        return self.folder / "kubeconfig"

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Write the kubeconfig of a user whose permissions are the roles bound to the name and the groups.

        A service account is the user `system:serviceaccount:<namespace>:<name>`.
        """
        file = f"kubeconfig-{user.replace(':', '-').replace('/', '-')}"
        return self.authority.kubeconfig(self.folder / file, self.url, user, groups)

    def start(self) -> None:
        """Start all programs and return when the API server is ready.

        Raises:
            ClusterFailed: if a program ends or is not ready in time.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.start_etcd()
                self.start_api_server()
                break
            except ClusterFailed as error:
                # another process may take a free port before a program listens on it
                if attempt == ATTEMPTS or "address already in use" not in str(error):
                    raise
                self.kill_api_server()
                self.kill_etcd()
                self._port, self._etcd, self._peers = self._take_ports()
        self.authority.kubeconfig(self.kubeconfig, self.url, "admin", [MASTERS])
        if self._controllers:
            self.start_controllers()

    def start_etcd(self) -> None:
        """Start etcd, after a kill with its earlier data."""
        at, peers = (f"https://{self.network.address}:{port}" for port in (self._etcd, self._peers))
        trust = self.authority.pair.certificate
        self.processes.start(
            "etcd",
            [
                self._programs["etcd"],
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={at}",
                f"--advertise-client-urls={at}",
                "--client-cert-auth",
                f"--cert-file={self._server.certificate}",
                f"--key-file={self._server.key}",
                f"--trusted-ca-file={trust}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--peer-client-cert-auth",
                f"--peer-trusted-ca-file={trust}",
                f"--peer-cert-file={self._server.certificate}",
                f"--peer-key-file={self._server.key}",
                # data survives a killed process but not a power failure, which is enough for tests
                "--unsafe-no-fsync",
                "--log-level=warn",
            ],
        )

    def start_api_server(self) -> None:
        """Start the API server, after a kill at its earlier address, and wait until it is ready."""
        accounts = ["--disable-admission-plugins=ServiceAccount"] if not self._controllers else []
        self.processes.start(
            "kube-apiserver",
            [
                self._programs["kube-apiserver"],
                f"--etcd-servers=https://{self.network.address}:{self._etcd}",
                f"--etcd-cafile={self.authority.pair.certificate}",
                f"--etcd-certfile={self._server.certificate}",
                f"--etcd-keyfile={self._server.key}",
                f"--bind-address={self.network.address}",
                f"--advertise-address={_advertised(self.network.address)}",
                f"--secure-port={self._port}",
                f"--tls-cert-file={self._server.certificate}",
                f"--tls-private-key-file={self._server.key}",
                f"--client-ca-file={self.authority.pair.certificate}",
                "--anonymous-auth=false",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                *accounts,
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={self._accounts}",
                f"--service-account-signing-key-file={self._accounts}",
                f"--service-cluster-ip-range={self.network.services}",
                "--allow-privileged=true",
                f"--kubelet-client-certificate={self._kubelets.certificate}",
                f"--kubelet-client-key={self._kubelets.key}",
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-certificate-authority={self.authority.pair.certificate}",
                # keep the first events for tests that read them late
                "--event-ttl=24h",
                "--profiling=false",
            ],
        )
        self.processes.wait_until("ready API server", self.ready, START_S)

    def start_controllers(self) -> None:
        """Start controller manager and scheduler, and wait for the default service account, without which pods fail."""
        grace = self._node_grace_s
        manager = self._kubeconfig_of("kube-controller-manager")
        scheduler = self._kubeconfig_of("kube-scheduler")
        self.processes.start(
            "kube-controller-manager",
            [
                self._programs["kube-controller-manager"],
                f"--kubeconfig={manager}",
                "--leader-elect=false",
                f"--authentication-kubeconfig={manager}",
                f"--authorization-kubeconfig={manager}",
                "--use-service-account-credentials",
                f"--service-account-private-key-file={self._accounts}",
                f"--root-ca-file={self.authority.pair.certificate}",
                "--secure-port=0",
                "--profiling=false",
                f"--cluster-signing-cert-file={self.authority.pair.certificate}",
                f"--cluster-signing-key-file={self.authority.pair.key}",
                f"--cluster-cidr={self.network.pods}",
                f"--service-cluster-ip-range={self.network.services}",
                "--allocate-node-cidrs=false",
                "--node-monitor-period=2s",
                f"--node-monitor-grace-period={grace}s",
                *QUICK,
            ],
        )
        self.processes.start(
            "kube-scheduler",
            [
                self._programs["kube-scheduler"],
                f"--kubeconfig={scheduler}",
                "--leader-elect=false",
                f"--authentication-kubeconfig={scheduler}",
                f"--authorization-kubeconfig={scheduler}",
                "--secure-port=0",
                "--profiling=false",
                *QUICK,
            ],
        )
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.processes.wait_until("default service account", lambda: self.answers(account), START_S)

    def kill_api_server(self) -> None:
        """Kill the API server; `start_api_server` restarts it."""
        self.processes.kill("kube-apiserver")

    def kill_etcd(self) -> None:
        """Kill etcd; `start_etcd` restarts it with its data."""
        self.processes.kill("etcd")

    def ready(self) -> bool:
        """Return whether the API server reports that it is ready."""
        return self.answers("/readyz")

    def answers(self, path: str) -> bool:
        """Return whether the API server answers a GET of `path` with 200."""
        return self.read(path) is not None

    def read(self, path: str) -> bytes | None:
        """Return the body of a GET of `path`; None without an answer, or with another status than 200."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=5, context=self._trust) as answer:
                return bytes(answer.read())
        except OSError:
            return None

    def kubectl(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run `kubectl` as an administrator and return its output."""
        access = f"--kubeconfig={self.kubeconfig}"
        return self.processes.run([self._programs["kubectl"], access, *arguments], enter=False, seconds=seconds)

    def close(self) -> None:
        """Stop every program and remove the cluster's folder."""
        self.processes.close()

    def _kubeconfig_of(self, part: str) -> Path:
        return self.authority.kubeconfig(self.folder / f"{part}.kubeconfig", self.url, f"system:{part}")

    def _take_ports(self) -> tuple[int, int, int]:
        free = free_ports(3)
        api, etcd, peers = (fixed or found for fixed, found in zip(self.network.ports, free, strict=True))
        return api, etcd, peers

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.pair.certificate))
        context.load_cert_chain(self._kubelets.certificate, self._kubelets.key)
        return context


def ready_nodes(plane: ControlPlane) -> set[str]:
    """Return the names of the nodes that are Ready."""
    nodes = json.loads(plane.read("/api/v1/nodes") or b'{"items": []}')["items"]
    return {
        node["metadata"]["name"]
        for node in nodes
        if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", []))
    }


def _first(services: str) -> str:
    """Return the first address of the services' range, which is the API server's inside the cluster."""
    return str(ipaddress.ip_network(services)[1])


def _advertised(address: str) -> str:
    """Return the address for the `kubernetes` service, where Kubernetes refuses a loopback address."""
    return address if not ipaddress.ip_address(address).is_loopback else "192.0.2.1"
