"""Parts of the operator's process: probes, the Lease's name, and that a replica without the Lease writes nothing."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request

import pytest
from kubernetes import client

from mechanism.errors import InputError
from operators.health import HealthServer
from operators.kube import ApiError, KubeApi
from operators.operator import lease_name, wait_for_definitions
from tests.support.ports import free_ports


def status_of(server: HealthServer, path: str) -> int:
    host, port = server.address
    try:
        with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_probes_report_their_checks() -> None:
    ready = threading.Event()
    server = HealthServer("127.0.0.1", 0, {"/healthz": lambda: True, "/readyz": ready.is_set})
    try:
        assert (status_of(server, "/healthz"), status_of(server, "/readyz"), status_of(server, "/other")) == (
            200,
            503,
            404,
        )
        ready.set()
        assert status_of(server, "/readyz?verbose") == 200
    finally:
        server.close()


def unreachable() -> client.ApiClient:
    [port] = free_ports(1)
    return client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}"))


def test_a_replica_without_the_lease_sends_no_write() -> None:
    api = KubeApi(unreachable(), may_write=lambda: False)
    pod = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n"}}
    for write in (lambda: api.create(pod), lambda: api.apply(pod), lambda: api.delete("v1", "Pod", "n", "a", "u")):
        with pytest.raises(ApiError, match="not sent, because another replica may lead"):
            write()
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a", "namespace": "n"}}
    for call in (lambda: api.list("v1", "Pod", "n", "a=b"), lambda: api.replace(lease)):
        with pytest.raises(ApiError, match="the API server does not answer"):
            call()


def test_a_call_outside_the_role_is_a_defect() -> None:
    with pytest.raises(KeyError, match="delete leases is not in USED"):
        KubeApi(unreachable()).delete("coordination.k8s.io/v1", "Lease", "n", "a", "u")


@pytest.mark.parametrize("text", ["operator", "/operator", "ns/", "a/b/c"])
def test_a_lease_is_named_with_its_namespace(text: str) -> None:
    with pytest.raises(InputError, match="NAMESPACE/NAME"):
        lease_name(text)


def test_a_stopped_operator_waits_for_nothing() -> None:
    stop = threading.Event()
    waiting = threading.Thread(target=wait_for_definitions, args=(KubeApi(unreachable()), stop), daemon=True)
    waiting.start()
    time.sleep(0.1)
    stop.set()
    waiting.join(60)
    assert not waiting.is_alive()
