"""Clusters for the tests: by default one that the first test starts, or an existing one.

LLM_AUCTION_TEST_KUBECONFIG names the kubeconfig of an existing cluster (kind, a cloud), which the tests use as its
administrator; LLM_AUCTION_TEST_IMAGE names an image with this project that the cluster can pull. Tests that stop or
break their cluster use `own_control_plane`, `kwok_plane` or `own_node` and are skipped with an existing cluster.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kubernetes import client, config

from benchmarks.operators.operating import Running, operator
from operators.resources.crds import KINDS, definition
from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane
from tests.support.cluster.node import HOST_IMAGE, Node
from tests.support.cluster.tools import ToolsMissing

EXISTING = "LLM_AUCTION_TEST_KUBECONFIG"
IMAGE = "LLM_AUCTION_TEST_IMAGE"
WAIT_S = 90.0
"""Longest wait for something that takes a second on a quiet machine."""


def existing() -> Path | None:
    """Return the kubeconfig of the existing cluster that the tests should use, if one is named."""
    path = os.environ.get(EXISTING)
    return Path(path) if path else None


def eventually(what: str, holds: Callable[[], bool], seconds: float = WAIT_S) -> None:
    """Wait until `holds()`; fail the test after `seconds`."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


@contextmanager
def fresh_namespace(api: client.ApiClient) -> Iterator[str]:
    """Create a namespace with a unique name; delete it at the end."""
    core, name = client.CoreV1Api(api), f"test-{uuid.uuid4().hex[:10]}"
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
    yield name
    core.delete_namespace(name)


def client_with_token(kubeconfig: Path, token: str) -> client.ApiClient:
    """Return a client that authenticates by a token, such as a service account's."""
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    settings.cert_file = settings.key_file = None
    settings.api_key = {"authorization": f"Bearer {token}"}
    return client.ApiClient(settings)


@pytest.fixture(scope="session")
def own_control_plane() -> Iterator[ControlPlane]:
    """Run etcd and an API server, without controllers."""
    if existing():
        pytest.skip(f"needs its own cluster, but {EXISTING} names an existing one")
    try:
        plane = ControlPlane()
    except ToolsMissing as error:
        pytest.skip(str(error))
    with plane:
        yield plane


@pytest.fixture(scope="session")
def kubeconfig(request: pytest.FixtureRequest) -> Path:
    """Return the administrator's kubeconfig of an API server; without controllers, pods may never start."""
    return existing() or request.getfixturevalue("own_control_plane").kubeconfig


@pytest.fixture(scope="session")
def kwok_plane() -> Iterator[ControlPlane]:
    """Run a control plane with its controllers and two simulated nodes (kwok) with eight GPUs each."""
    if existing():
        pytest.skip(f"needs simulated nodes, but {EXISTING} names an existing cluster")
    try:
        plane = ControlPlane(controllers=True)
        with plane:
            kwok.start(plane)
            kwok.add_nodes(plane, 2, resources={"nvidia.com/gpu": "8"})
            yield plane
    except ToolsMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kwok_api(kwok_plane: ControlPlane) -> Iterator[client.ApiClient]:
    """Return a client of the cluster with simulated nodes."""
    with config.new_client_from_config(str(kwok_plane.kubeconfig)) as connected:
        yield connected


@pytest.fixture
def kwok_namespace(kwok_api: client.ApiClient) -> Iterator[str]:
    """Create a namespace in the cluster with simulated nodes."""
    with fresh_namespace(kwok_api) as name:
        yield name


@pytest.fixture(scope="session")
def own_node() -> Iterator[Node]:
    """Run a cluster with one node that runs real pods."""
    if existing():
        pytest.skip(f"needs its own node, but {EXISTING} names an existing cluster")
    try:
        node = Node()
    except ToolsMissing as error:
        pytest.skip(str(error))
    with node:
        yield node


@pytest.fixture(scope="session")
def pod_image(request: pytest.FixtureRequest) -> str:
    """Return the name of an image with this project that the cluster of `pods_kubeconfig` can run."""
    if not existing():
        request.getfixturevalue("own_node")
        return HOST_IMAGE
    if IMAGE not in os.environ:
        pytest.skip(f"{EXISTING} names a cluster: name an image with this project that it can pull in {IMAGE}")
    return os.environ[IMAGE]


@pytest.fixture(scope="session")
def pods_kubeconfig(request: pytest.FixtureRequest) -> Path:
    """Return the administrator's kubeconfig of a cluster that runs real pods."""
    return existing() or request.getfixturevalue("own_node").plane.kubeconfig


@pytest.fixture(scope="session")
def pods_api(pods_kubeconfig: Path) -> Iterator[client.ApiClient]:
    """Return a client of the cluster that runs real pods."""
    with config.new_client_from_config(str(pods_kubeconfig)) as connected:
        yield connected


@pytest.fixture
def pods_namespace(pods_api: client.ApiClient) -> Iterator[str]:
    """Create a namespace in the cluster that runs real pods."""
    with fresh_namespace(pods_api) as name:
        yield name


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Iterator[client.ApiClient]:
    """Return a client of the API server of `kubeconfig`."""
    with config.new_client_from_config(str(kubeconfig)) as connected:
        yield connected


def define(api: client.ApiClient) -> None:
    """Define the custom resources in a cluster and wait until they are served."""
    definitions = client.ApiextensionsV1Api(api)
    manager = {"field_manager": "tests", "force": True, "_content_type": "application/apply-patch+yaml"}
    for kind in KINDS:
        definitions.patch_custom_resource_definition(kind.name, definition(kind), **manager)

    def established(name: str) -> bool:
        conditions = definitions.read_custom_resource_definition(name).status.conditions or []
        return any(condition.type == "Established" and condition.status == "True" for condition in conditions)

    for kind in KINDS:
        eventually(f"{kind.kind} is served", lambda name=kind.name: established(name))  # type: ignore[misc]


@pytest.fixture(scope="session")
def definitions(api: client.ApiClient) -> None:
    """Define the custom resources in the API server of `kubeconfig`."""
    define(api)


@pytest.fixture
def namespace(api: client.ApiClient) -> Iterator[str]:
    """Create a namespace for the test."""
    with fresh_namespace(api) as name:
        yield name


@pytest.fixture
def running(
    pods_kubeconfig: Path, pods_api: client.ApiClient, pods_namespace: str, tmp_path: Path
) -> Iterator[Running]:
    """Run the operator for the test's namespace in the cluster that runs real pods."""
    define(pods_api)
    with operator(pods_api, pods_kubeconfig, pods_namespace, tmp_path) as process:
        yield process
