"""A node that runs real pods with the files of this machine, and their network."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kubernetes import client, config

from tests.support.cluster.guard import control_groups, members
from tests.support.cluster.node import HOST_IMAGE, Node

from .conftest import eventually, fresh_namespace

CHECKOUT = Path(__file__).parents[2]


def container(image: str, *command: str, **more: Any) -> dict[str, Any]:
    """Return the container of a pod."""
    return {"name": "main", "image": image, "command": list(command), **more}


def pod(name: str, *arguments: Any, labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Return a pod that is not restarted."""
    spec = {"restartPolicy": "Never", "containers": [container(*arguments, **more)]}
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def phase(core: client.CoreV1Api, name: str, namespace: str) -> str:
    """Return a pod's phase."""
    return str(core.read_namespaced_pod(name, namespace).status.phase)


def test_a_pod_runs_this_project_and_has_a_log(pods_api: client.ApiClient, pods_namespace: str, pod_image: str) -> None:
    core = client.CoreV1Api(pods_api)
    program = "from mechanism.markers import __name__ as here; import socket; print(here, 'in', socket.gethostname())"
    core.create_namespaced_pod(pods_namespace, pod("speaker", pod_image, "python", "-c", program))
    eventually("the pod has ended", lambda: phase(core, "speaker", pods_namespace) in {"Succeeded", "Failed"})
    assert core.read_namespaced_pod_log("speaker", pods_namespace) == "mechanism.markers in speaker\n"
    assert phase(core, "speaker", pods_namespace) == "Succeeded"


def test_a_failed_pod_has_its_exit_code(pods_api: client.ApiClient, pods_namespace: str, pod_image: str) -> None:
    core = client.CoreV1Api(pods_api)
    core.create_namespaced_pod(pods_namespace, pod("failing", pod_image, "python", "-c", "raise SystemExit(3)"))
    eventually("the pod has failed", lambda: phase(core, "failing", pods_namespace) == "Failed")
    [ended] = core.read_namespaced_pod("failing", pods_namespace).status.container_statuses
    assert ended.state.terminated.exit_code == 3


RENDEZVOUS = """
import os, socket, time
rank = int(os.environ["JOB_COMPLETION_INDEX"])
if rank == 0:
    server = socket.create_server(("", 7000))
    print("received", server.accept()[0].recv(99).decode())
while rank == 1:
    try:
        socket.create_connection(("pair-0.pair", 7000)).sendall(b"rank 1")
        break
    except OSError:
        time.sleep(0.2)
"""


def test_the_pods_of_an_indexed_job_find_each_other_by_name(
    pods_api: client.ApiClient, pods_namespace: str, pod_image: str
) -> None:
    core, jobs = client.CoreV1Api(pods_api), client.BatchV1Api(pods_api)
    headless = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": "pair"}}
    core.create_namespaced_service(pods_namespace, {"metadata": {"name": "pair"}, "spec": headless})
    spec = {
        "subdomain": "pair",
        "restartPolicy": "Never",
        "containers": [container(pod_image, "python", "-c", RENDEZVOUS)],
    }
    job = {"completions": 2, "parallelism": 2, "completionMode": "Indexed", "template": {"spec": spec}}
    jobs.create_namespaced_job(pods_namespace, {"metadata": {"name": "pair"}, "spec": job})
    eventually(
        "both have succeeded",
        lambda: jobs.read_namespaced_job("pair", pods_namespace).status.completed_indexes == "0,1",
    )
    first = "batch.kubernetes.io/job-completion-index=0"
    [server] = core.list_namespaced_pod(pods_namespace, label_selector=first).items
    assert core.read_namespaced_pod_log(server.metadata.name, pods_namespace) == "received rank 1\n"


def test_a_service_can_be_reached_from_this_machine(
    own_node: Node, pods_api: client.ApiClient, pods_namespace: str
) -> None:
    core, labels = client.CoreV1Api(pods_api), {"app": "pages"}
    serve = ("python", "-m", "http.server", "8000", "--directory", str(CHECKOUT))
    probe = {"readinessProbe": {"httpGet": {"path": "/LICENSE", "port": 8000}, "periodSeconds": 1}}
    core.create_namespaced_pod(pods_namespace, pod("pages", HOST_IMAGE, *serve, labels=labels, **probe))
    ports = [{"port": 80, "targetPort": 8000}]
    service = {"metadata": {"name": "pages"}, "spec": {"selector": labels, "ports": ports}}
    address = core.create_namespaced_service(pods_namespace, service).spec.cluster_ip

    def answer() -> bytes:
        try:
            with urllib.request.urlopen(f"http://{address}/LICENSE", timeout=5) as page:
                return bytes(page.read())
        except OSError:
            return b""

    eventually("the page is served", lambda: answer() == (CHECKOUT / "LICENSE").read_bytes())


@pytest.mark.slow
def test_a_silent_node_becomes_not_ready_and_recovers(own_node: Node) -> None:
    own_node.kill_kubelet()
    eventually("the node is not ready", lambda: not own_node.ready())
    own_node.start_kubelet()
    eventually("the node is ready again", own_node.ready)


OWNER = """\
import sys, time
from tests.support.cluster.node import Node
with Node() as node:
    print(node.plane.folder, node.plane.network.address, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """Start another process with its own node."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], cwd=CHECKOUT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        yield process
        process.kill()
        process.wait()


@pytest.mark.slow
def test_nothing_is_left_of_a_node_when_its_owner_is_killed(own_node: Node, owner: subprocess.Popen[bytes]) -> None:
    assert owner.stdout is not None
    path, address = owner.stdout.readline().decode().split()
    folder = Path(path)
    assert address != own_node.plane.network.address
    with config.new_client_from_config(str(folder / "kubeconfig")) as api, fresh_namespace(api) as namespace:
        core = client.CoreV1Api(api)
        asleep = ("sleep", f"{60_000 + owner.pid}")
        core.create_namespaced_pod(namespace, pod("sleeper", HOST_IMAGE, *asleep))
        eventually("the pod runs", lambda: phase(core, "sleeper", namespace) == "Running")
    [sleeper] = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == list(asleep)]
    interfaces = set(psutil.net_if_addrs())
    assert control_groups(folder)

    owner.send_signal(signal.SIGKILL)
    owner.wait()

    eventually("its processes and its folder are gone", lambda: not folder.exists() and not any(members(folder)))
    assert not sleeper.is_running()
    assert not control_groups(folder)
    eventually("its interface is gone", lambda: len(interfaces - set(psutil.net_if_addrs())) == 1)
    assert own_node.ready()
