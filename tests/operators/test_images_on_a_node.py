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
from kubernetes import client

from cli.serve import builtin_catalogue
from inference.models import resolve
from scripts.images.buildah import FOLDER, image_name
from serving.campaigns.catalogue import read_catalogue
from tests.operators.charts.helm import DEFINITIONS, OPERATOR, Helm
from tests.support.cluster import tools
from tests.support.cluster.node import Node
from tests.support.postgres import PostgresMissing, PostgresServer
from trainers.artifacts.registry import Registry

from .live_service import BROWSER, QUESTIONS, LiveService, opened, spec, stock

START_S = 900.0
LAYOUT = FOLDER / "layout"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def loaded(request: pytest.FixtureRequest) -> Node:
    """Return a node that has the images of operator, router and policy."""
    if not (LAYOUT / "index.json").is_file():
        pytest.skip("the images are not built: `make images` does it")
    node: Node = request.getfixturevalue("own_node")
    node.load(LAYOUT, *(image_name(target) for target in ("operator", "router", "policy")))
    return node


@pytest.fixture
def operator_release(loaded: Node, pods_namespace: str, tmp_path: Path) -> Iterator[Helm]:
    """Install the definitions and the operator by their charts, with the chart's own name of the image."""
    helm = Helm(tools.locate("helm"), tmp_path, loaded.plane.kubeconfig)
    helm("upgrade", "--install", "crds", DEFINITIONS, "-n", pods_namespace, "--take-ownership", "--force-conflicts")
    helm("install", "shop", OPERATOR, "-n", pods_namespace)
    yield helm
    helm("uninstall", "shop", "-n", pods_namespace)


@pytest.fixture
def service(
    operator_release: Helm, pods_api: client.ApiClient, pods_namespace: str, tmp_path: Path
) -> Iterator[LiveService]:
    """Run a service from the images, with the shipped model and a PostgreSQL of this machine."""
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
        with opened(pods_api, pods_namespace, folder, (postgres.folder, url), specification, {}, START_S) as found:
            yield found


def test_the_built_images_run_the_operator_a_router_and_a_policy(
    service: LiveService, pods_api: client.ApiClient, pods_namespace: str
) -> None:
    core: Any = client.CoreV1Api(pods_api)
    pods = core.list_namespaced_pod(pods_namespace).items
    images = {one.image for pod in pods for one in pod.spec.containers}
    assert images == {image_name(target) for target in ("operator", "router", "policy")}
    ready = [pod for pod in pods if "operator" in pod.metadata.name and pod.status.container_statuses[0].ready]
    assert len(ready) == 2

    address = core.read_namespaced_service("ads", pods_namespace).spec.cluster_ip
    with httpx.Client(base_url=f"http://{address}", timeout=120, headers=BROWSER) as http:
        assert http.get("/livez").status_code == 200
        body = {"model": "default", "messages": [{"role": "user", "content": QUESTIONS[0]}]}
        answer = http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        print(json.dumps(answer.json())[:600])
        assert answer.json()["choices"][0]["message"]["content"]
