"""The API server for the operator's tests: custom kinds, authentication, authorisation, restarts."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.guard import members

from .conftest import client_with_token, eventually

SCHEMA = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["height"],
            "properties": {"height": {"type": "integer", "minimum": 1}},
            "x-kubernetes-validations": [{"rule": "self.height == oldSelf.height", "message": "height is immutable"}],
        }
    },
}


@pytest.fixture
def billboards(api: client.ApiClient) -> Iterator[str]:
    """Define a kind that no cluster has; return its group."""
    group = f"t{uuid.uuid4().hex[:8]}.llm-auction.io"
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"billboards.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": "Billboard", "plural": "billboards", "singular": "billboard"},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": SCHEMA}}],
        },
    }
    definitions = client.ApiextensionsV1Api(api)
    definitions.create_custom_resource_definition(definition)

    def established() -> bool:
        conditions = definitions.read_custom_resource_definition(f"billboards.{group}").status.conditions or []
        return any(condition.type == "Established" and condition.status == "True" for condition in conditions)

    eventually("the new kind is served", established)
    yield group
    definitions.delete_custom_resource_definition(f"billboards.{group}")


def billboard(group: str, height: int) -> dict[str, object]:
    """Return an object of that kind."""
    kind = {"apiVersion": f"{group}/v1", "kind": "Billboard", "metadata": {"name": "north"}}
    return {**kind, "spec": {"height": height}}


def test_an_object_of_a_new_kind_is_stored_and_its_rules_apply(
    api: client.ApiClient, namespace: str, billboards: str
) -> None:
    objects = client.CustomObjectsApi(api)
    place = (billboards, "v1", namespace, "billboards")
    objects.create_namespaced_custom_object(*place, billboard(billboards, 3))
    assert objects.get_namespaced_custom_object(*place, "north")["spec"] == {"height": 3}

    with pytest.raises(ApiException) as refused:
        objects.patch_namespaced_custom_object(*place, "north", {"spec": {"height": 4}})
    assert refused.value.status == 422
    assert "height is immutable" in refused.value.body


def test_an_account_can_do_only_what_its_role_allows(kubeconfig: Path, api: client.ApiClient, namespace: str) -> None:
    core, roles = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    core.create_namespaced_service_account(namespace, {"metadata": {"name": "reader"}})
    rules = [{"apiGroups": [""], "resources": ["services"], "verbs": ["list"]}]
    roles.create_namespaced_role(namespace, {"metadata": {"name": "reads"}, "rules": rules})
    binding = {
        "metadata": {"name": "reads"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }
    roles.create_namespaced_role_binding(namespace, binding)
    granted = core.create_namespaced_service_account_token("reader", namespace, {"spec": {"audiences": []}})

    def listed() -> bool:
        try:
            return client.CoreV1Api(reader).list_namespaced_service(namespace).items == []
        except ApiException as error:  # the authoriser reads the binding with a delay
            if error.status != 403:
                raise
            return False

    with client_with_token(kubeconfig, granted.status.token) as reader:
        eventually("the reader can list", listed)
        with pytest.raises(ApiException) as refused:
            client.CoreV1Api(reader).list_namespaced_secret(namespace)
    assert refused.value.status == 403
    assert f"system:serviceaccount:{namespace}:reader" in refused.value.body


def test_a_certificate_identifies_its_holder(own_control_plane: ControlPlane) -> None:
    path = own_control_plane.kubeconfig_for("alice", ["buyers"])
    with config.new_client_from_config(str(path)) as alice:
        user = client.AuthenticationV1Api(alice).create_self_subject_review({}).status.user_info
    assert user.username == "alice"
    assert set(user.groups) == {"buyers", "system:authenticated"}


def test_a_client_without_a_certificate_is_refused(own_control_plane: ControlPlane) -> None:
    settings = client.Configuration(host=own_control_plane.url)
    settings.ssl_ca_cert = str(own_control_plane.authority.pair.certificate)
    with client.ApiClient(settings) as anonymous, pytest.raises(ApiException) as refused:
        client.CoreV1Api(anonymous).list_namespace()
    assert refused.value.status == 401


def test_kubectl_reads_the_same_cluster(own_control_plane: ControlPlane, namespace: str) -> None:
    assert f"namespace/{namespace}" in own_control_plane.kubectl("get", "namespaces", "-o", "name").splitlines()


def test_objects_survive_kills_of_the_server_and_of_etcd(
    own_control_plane: ControlPlane, api: client.ApiClient, namespace: str
) -> None:
    core = client.CoreV1Api(api)
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "kept"}, "data": {"answer": "42"}})
    own_control_plane.kill_api_server()
    assert not own_control_plane.ready()
    own_control_plane.kill_etcd()
    own_control_plane.start_etcd()
    own_control_plane.start_api_server()
    assert core.read_namespaced_config_map("kept", namespace).data == {"answer": "42"}


OWNER = """\
import sys, time
from tests.support.cluster.control_plane import ControlPlane
with ControlPlane() as plane:
    print(plane.folder, flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_when_the_owner_is_killed(own_control_plane: ControlPlane) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    with owner.stdout:
        folder = Path(owner.stdout.readline().decode().strip())
    assert {process.name() for process in members(folder)} == {"etcd", "kube-apiserver"}
    assert folder != own_control_plane.folder

    owner.send_signal(signal.SIGKILL)
    owner.wait()

    eventually("its processes and its folder are gone", lambda: not folder.exists() and not any(members(folder)))
    assert own_control_plane.ready()
