"""The operator in a process of its own, under its own service account and with no more rights than its role gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from operators.rbac import rules

CHECKOUT = Path(__file__).parents[2]
ACCOUNT = "llm-auction-operator"
LASTS_S = 24 * 3600
END_S = 25.0
"""A pod has thirty seconds between SIGTERM and SIGKILL."""


def grant(api: client.ApiClient, home: str, namespaces: Sequence[str]) -> str:
    """Makes the account in namespace `home`, with its roles for `namespaces`; returns a token of it."""
    core: Any = client.CoreV1Api(api)
    roles: Any = client.RbacAuthorizationV1Api(api)
    core.create_namespaced_service_account(home, {"metadata": {"name": ACCOUNT}})
    subject = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": home}]

    def binding(kind: str, name: str) -> dict[str, Any]:
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        return {"metadata": {"name": name}, "roleRef": role, "subjects": subject}

    wide = f"{ACCOUNT}-{home}"
    roles.create_cluster_role({"metadata": {"name": wide}, "rules": rules(cluster=True)})
    roles.create_cluster_role_binding(binding("ClusterRole", wide))
    for namespace in namespaces:
        roles.create_namespaced_role(namespace, {"metadata": {"name": ACCOUNT}, "rules": rules(cluster=False)})
        roles.create_namespaced_role_binding(namespace, binding("Role", ACCOUNT))
    # nobody renews it here, as the kubelet does in a pod
    wanted = {"spec": {"expirationSeconds": LASTS_S}}
    token: str = core.create_namespaced_service_account_token(ACCOUNT, home, wanted).status.token
    return token


def kubeconfig_with(token: str, admin: Path, target: Path) -> Path:
    """The administrator's kubeconfig with a token in place of the certificate."""
    config = yaml.safe_load(admin.read_text(encoding="utf-8"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    target.write_text(yaml.safe_dump(config), encoding="utf-8")
    return target


class Running:
    """The operator's process; can be killed and started again."""

    def __init__(self, kubeconfig: Path, namespaces: Sequence[str], log: Path) -> None:
        self.command = [sys.executable, "-m", "cli.main", "operator", "--kubeconfig", str(kubeconfig), "--metrics", ""]
        for namespace in namespaces:
            self.command += ["--namespace", namespace]
        self.log = log
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=CHECKOUT, stdout=log, stderr=log)

    def kill(self) -> None:
        """In the middle of whatever it does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def operator(api: client.ApiClient, admin: Path, namespace: str, folder: Path) -> Iterator[Running]:
    """The operator for one namespace, in which its account lives as well."""
    access = kubeconfig_with(grant(api, namespace, [namespace]), admin, folder / "operator.kubeconfig")
    running = Running(access, [namespace], folder / "operator.log")
    try:
        yield running
        assert running.process.poll() is None, running.log.read_text(encoding="utf-8")[-4000:]
    finally:
        running.process.terminate()
        try:
            running.process.wait(END_S)
        except subprocess.TimeoutExpired:
            running.kill()
            raise
        finally:
            roles = client.RbacAuthorizationV1Api(api)
            roles.delete_cluster_role(f"{ACCOUNT}-{namespace}")
            roles.delete_cluster_role_binding(f"{ACCOUNT}-{namespace}")
