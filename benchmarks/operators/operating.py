"""The operator as a process with its own service account and only the permissions of its role."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from operators.rbac import rules

CHECKOUT = Path(__file__).parents[2]
ACCOUNT = "llm-auction-operator"
TOKEN_S = 24 * 3600
STOP_S = 25.0
"""A pod has thirty seconds between SIGTERM and SIGKILL."""


def grant(api: client.ApiClient, home: str, namespaces: Sequence[str]) -> str:
    """Create the service account in namespace `home` with its roles for `namespaces`, and return its token."""
    core: Any = client.CoreV1Api(api)
    roles: Any = client.RbacAuthorizationV1Api(api)
    core.create_namespaced_service_account(home, {"metadata": {"name": ACCOUNT}})
    subject = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}]

    def binding(kind: str, name: str) -> dict[str, Any]:
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        return {"metadata": {"name": name}, "roleRef": role, "subjects": subject}

    wide = f"{ACCOUNT}-{home}"
    roles.create_cluster_role({"metadata": {"name": wide}, "rules": rules("cluster")})
    roles.create_cluster_role_binding(binding("ClusterRole", wide))
    lease = f"{ACCOUNT}-lease"
    roles.create_namespaced_role(home, {"metadata": {"name": lease}, "rules": rules("own")})
    roles.create_namespaced_role_binding(home, binding("Role", lease))
    for namespace in namespaces:
        roles.create_namespaced_role(namespace, {"metadata": {"name": ACCOUNT}, "rules": rules("watched")})
        roles.create_namespaced_role_binding(namespace, binding("Role", ACCOUNT))
    # long-lived, because no kubelet renews it as in a pod
    wanted = {"spec": {"expirationSeconds": TOKEN_S}}
    token: str = core.create_namespaced_service_account_token(ACCOUNT, home, wanted).status.token
    return token


def kubeconfig_with(token: str, admin: Path, target: Path) -> Path:
    """Write the administrator's kubeconfig with a token in place of the certificate."""
    config = yaml.safe_load(admin.read_text(encoding="utf-8"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    target.write_text(yaml.safe_dump(config), encoding="utf-8")
    return target


class Running:
    """The operator's process, which can be killed and restarted."""

    def __init__(self, kubeconfig: Path, namespaces: Sequence[str], log: Path, options: Sequence[str] = ()) -> None:
        self.command = [sys.executable, "-m", "cli.main", "operator", "--kubeconfig", str(kubeconfig), "--metrics", ""]
        self.command += options
        for namespace in namespaces:
            self.command += ["--namespace", namespace]
        self.log = log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=CHECKOUT, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def restart_if_ended(self) -> None:
        """Start the process again if it has ended, as a kubelet does."""
        if self.process.poll() is not None:
            self.start()

    def stop(self) -> None:
        """End the process with SIGTERM, also one that was frozen; fail if it does not end in time."""
        self.process.terminate()
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@contextmanager
def operator(api: client.ApiClient, admin: Path, namespace: str, folder: Path) -> Iterator[Running]:
    """Run the operator for one namespace, which also holds its service account."""
    with replicas(api, admin, namespace, folder, 1) as [running]:
        yield running
        assert running.process.poll() is None, running.log.read_text(encoding="utf-8")[-4000:]


@contextmanager
def replicas(api: client.ApiClient, admin: Path, namespace: str, folder: Path, count: int) -> Iterator[list[Running]]:
    """Run replicas of the operator for one namespace, which also holds their service account and Lease."""
    access = kubeconfig_with(grant(api, namespace, [namespace]), admin, folder / "operator.kubeconfig")
    options = ["--lease", f"{namespace}/operator"] if count > 1 else []
    running = [Running(access, [namespace], folder / f"operator-{number}.log", options) for number in range(count)]
    roles = client.RbacAuthorizationV1Api(api)
    with ExitStack() as stack:
        stack.callback(roles.delete_cluster_role, f"{ACCOUNT}-{namespace}")
        stack.callback(roles.delete_cluster_role_binding, f"{ACCOUNT}-{namespace}")
        for one in running:
            stack.callback(one.stop)
        yield running
