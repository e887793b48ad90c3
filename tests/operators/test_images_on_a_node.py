"""The built images (`make images`) in pods that really run: the operator from its chart, a service that it brings up.

Minutes on a quiet machine. Skipped where the images are not built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes import client, config

from cli.serve import builtin_catalogue
from inference.models import resolve
from scripts.images.buildah import FOLDER, image_name
from serving.campaigns.catalogue import read_catalogue
from tests.operators.charts.helm import DEFINITIONS, OPERATOR, Helm
from tests.support.cluster import tools
from tests.support.cluster.node import Node
from tests.support.postgres import PostgresMissing, PostgresServer
from trainers.artifacts.registry import Registry

from .conftest import eventually
from .examples import PLACE, create, example
from .live_service import BROWSER, QUESTIONS, LiveService, opened, spec, stock

START_S = 900.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def load(node: Node, *targets: str) -> None:
    """Import built images into the node, or skip the test."""
    built = set(json.loads((FOLDER / "images.json").read_text())) if (FOLDER / "images.json").is_file() else set()
    if missing := set(targets) - built:
        pytest.skip(f"not built: {', '.join(sorted(missing))}; `make images` does it")
    node.load(FOLDER / "layout", *(image_name(target) for target in targets))


@pytest.fixture(scope="module")
def image_node() -> Iterator[Node]:
    """Run a cluster with a node on which containers have the files of their images alone."""
    try:
        node = Node(host_mounts=False)
    except tools.ToolsMissing as error:
        pytest.skip(str(error))
    with node:
        yield node


@pytest.fixture(scope="module")
def api(image_node: Node) -> Iterator[client.ApiClient]:
    """Return a client of that cluster."""
    with config.new_client_from_config(str(image_node.plane.kubeconfig)) as connected:
        yield connected


@pytest.fixture
def operator_release(image_node: Node, namespace: str, tmp_path: Path) -> Iterator[Helm]:
    """Install the definitions and the operator by their charts, with the chart's own name of the image."""
    load(image_node, "operator")
    helm = Helm(tools.locate("helm"), tmp_path, image_node.plane.kubeconfig)
    helm("upgrade", "--install", "crds", DEFINITIONS, "-n", namespace, "--take-ownership", "--force-conflicts")
    helm("install", "shop", OPERATOR, "-n", namespace)
    yield helm
    helm("uninstall", "shop", "-n", namespace)


@pytest.fixture
def service(
    image_node: Node, operator_release: Helm, api: client.ApiClient, namespace: str, tmp_path: Path
) -> Iterator[LiveService]:
    """Run a service from the images, with the shipped model and a PostgreSQL of this machine."""
    load(image_node, "router", "policy")
    folder = tmp_path / "auction"
    folder.mkdir()
    registry = Registry(f"{folder}/registry", tmp_path / "cache")
    first = registry.register(resolve("tiny"), base="tiny")
    specification = spec(image_name("router"), first.version, first.digest, [], "/auction/registry")
    specification["policy"]["image"] = image_name("policy")
    for part in ("router", "policy"):
        specification[part]["podSecurity"] = {"runAsUser": 10001, "runAsGroup": 10001}
    try:
        postgres = PostgresServer(durable=False)
    except PostgresMissing as missing:
        pytest.skip(str(missing))
    with postgres:
        postgres.folder.chmod(0o755)
        url = postgres.create("auction")
        stock(url, read_catalogue(builtin_catalogue(tmp_path / "catalogue", 0)))
        with opened(api, namespace, folder, (postgres.folder, url), specification, {}, START_S) as found:
            yield found


def operators(core: Any, namespace: str) -> list[Any]:
    """Return the operator's pods that are ready."""
    pods = core.list_namespaced_pod(namespace, label_selector="app.kubernetes.io/component=operator").items
    return [pod for pod in pods if all(one.ready for one in pod.status.container_statuses or [])]


@pytest.mark.usefixtures("operator_release")
def test_the_operator_runs_from_its_chart_and_reconciles(api: client.ApiClient, namespace: str) -> None:
    core: Any = client.CoreV1Api(api)
    eventually("two replicas are ready", lambda: len(operators(core, namespace)) == 2, START_S)
    assert {pod.spec.containers[0].image for pod in operators(core, namespace)} == {image_name("operator")}

    objects: Any = client.CustomObjectsApi(api)
    create(api, namespace, "irpojobs", example("01-quick.yaml"))

    def accepted() -> bool:
        found = objects.get_namespaced_custom_object(*PLACE, namespace, "irpojobs", "quick")
        conditions = (found.get("status") or {}).get("conditions") or []
        return any((one["type"], one["status"]) == ("Accepted", "True") for one in conditions)

    eventually("the job is accepted", accepted, START_S)
    batch: Any = client.BatchV1Api(api)
    eventually("its first step is created", lambda: bool(batch.list_namespaced_job(namespace).items), START_S)


def test_the_built_images_run_the_operator_a_router_and_a_policy(
    service: LiveService, api: client.ApiClient, namespace: str
) -> None:
    core: Any = client.CoreV1Api(api)
    pods = core.list_namespaced_pod(namespace).items
    images = {one.image for pod in pods for one in pod.spec.containers}
    assert images == {image_name(target) for target in ("operator", "router", "policy")}
    assert operators(core, namespace)

    address = core.read_namespaced_service("ads", namespace).spec.cluster_ip
    with httpx.Client(base_url=f"http://{address}", timeout=120, headers=BROWSER) as http:
        assert http.get("/livez").status_code == 200
        body = {"model": "default", "messages": [{"role": "user", "content": QUESTIONS[0]}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        print(json.dumps(answer.json())[:600])
        assert answer.json()["choices"][0]["message"]["content"]
