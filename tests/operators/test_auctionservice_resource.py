"""Which AuctionServices the API server accepts and refuses, and whether it accepts a service's objects."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from operators.auctionservice.manifests import PolicyServers, manifests
from operators.auctionservice.observe import Desired
from operators.children import contains, stamped
from operators.resources.auctionservice import AuctionServiceSpec, AuctionServiceStatus, Served, ServerSettings, Traffic
from tests.support.cluster.control_plane import ControlPlane

from .examples import EXAMPLES, PLACE, create
from .service_world import digest, spec

pytestmark = pytest.mark.usefixtures("definitions")


def service(**changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "/".join(PLACE),
        "kind": "AuctionService",
        "metadata": {"name": "ads"},
        "spec": spec(**changes),
    }


def test_defaults_are_those_of_the_models(api: client.ApiClient, namespace: str) -> None:
    made = service()
    del made["spec"]["rollout"]
    kept = AuctionServiceSpec.model_validate(create(api, namespace, "auctionservices", made)["spec"])
    assert kept == AuctionServiceSpec.model_validate(made["spec"])
    assert [step.weight for step in kept.rollout.steps] == [5, 25, 50]


STORE = {"name": "store", "mountPath": "/models", "persistentVolumeClaim": {"claimName": "models"}}
REFUSED = {
    "an unknown field": ({"colour": "red"}, "unknown field"),
    "a malformed digest": ({"model__digest": "latest"}, "digest"),
    "replicas and autoscaling": (
        {
            "router__replicas": 2,
            "router__autoscaling": {"maxReplicas": 4},
            "router__resources": {"requests": {"cpu": 1}},
        },
        "give replicas or autoscaling, not both",
    ),
    "autoscaling without a CPU request": (
        {"router__autoscaling": {"maxReplicas": 4}},
        "autoscaling needs resources.requests.cpu",
    ),
    "more routers than the maximum": (
        {
            "router__autoscaling": {"minReplicas": 5, "maxReplicas": 4},
            "router__resources": {"requests": {"cpu": 1}},
        },
        "minReplicas must not exceed maxReplicas",
    ),
    "a confidence in per cent": (
        {"rollout__guards": {"confidence": 99}},
        "must be at least 0.5 and at most 0.9999",
    ),
    "a digest with a prefix": (
        {"model": {"name": "v1", "digest": "sha256:" + "0" * 64}},
        "give 64 hex digits, as `llm-auction triton build` prints them",
    ),
    "a share twice": ({"rollout__steps": [{"weight": 5}, {"weight": 5}]}, "weights of steps must increase"),
    "decreasing shares": ({"rollout__steps": [{"weight": 50}, {"weight": 5}]}, "weights of steps must increase"),
    "a share of 0": ({"rollout__steps": [{"weight": 0}]}, "weight"),
    "a maxWeight above 100": ({"rollout__maxWeight": 101}, "maxWeight"),
    "no source of models": ({"policy__source": {}}, "give one of repository and registry"),
    "two sources of models": (
        {"policy__source": {"repository": "/models", "registry": "/models"}},
        "give one of repository and registry",
    ),
    "models outside all volumes": ({"policy__source": {"repository": "/other"}}, "must lie below the mountPath"),
    "a registry outside all volumes": ({"policy__source": {"registry": "/other"}}, "must lie below the mountPath"),
    "a relative registry": ({"policy__source": {"registry": "other"}}, "registry"),
    "a volume at a reserved path": ({"router__volumes": [{**STORE, "mountPath": "/tmp"}]}, "volumes must not be named"),
    "no secret": ({"router__secret": None}, "secret"),
    "a malformed currency": ({"router__currency": "dollars"}, "currency"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_specification_is_refused(api: client.ApiClient, namespace: str, case: str) -> None:
    changes, expected = REFUSED[case]
    with pytest.raises(ApiException) as refused:
        create(api, namespace, "auctionservices", service(**copy.deepcopy(changes)))
    assert refused.value.status in (400, 422)
    assert expected in str(refused.value.body)


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {
        "router__autoscaling": {"minReplicas": 2, "maxReplicas": 4},
        "router__resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": 2, "memory": "2e9"}},
        "router__env": [{"name": "EMPTY", "value": ""}, {"name": "ONE", "value": "1"}],
        "router__publicUrl": "https://ads.example",
    },
    "from an object store": {
        "policy__source": {"registry": "s3://bucket/models-registry"},
        "policy__envFrom": [{"secretRef": {"name": "store"}}],
        "policy__volumes": [],
    },
    "on GPUs, from a registry": {
        "policy__source": {"registry": "/models/registry"},
        "policy__gpus": 2,
        "policy__tolerations": [{"key": "gpu", "operator": "Exists"}],
        "policy__priorityClassName": "high",
        "imagePullSecrets": [{"name": "pull"}],
    },
    "adapters from a registry": {"policy__source": {"registry": "/models/registry"}, "model__base": digest("base")},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_api_server_accepts_every_object_of_a_service(
    own_control_plane: ControlPlane, namespace: str, tmp_path: Path, shape: str
) -> None:
    made = AuctionServiceSpec.model_validate(spec(**SHAPES[shape]))
    first = Served(name="v1", digest=digest("v1"), base=made.model.base or "")
    versions = [first, first.model_copy(update={"revision": "0a1b2c3d4e5f"})]
    traffic = [
        Traffic(
            name=one.route, digest=one.digest, key=one.key, base=one.base, revision=one.revision, weight=50, ready=True
        )
        for one in versions
    ]
    uid = "9f1c6b6e-8b0c-4b9e-9d8d-000000000000"
    desired = Desired("ads", namespace, uid, 1, datetime.now(UTC), made, AuctionServiceStatus())
    policies = [PolicyServers(one, ServerSettings.of(made), 1) for one in versions]
    status = AuctionServiceStatus(traffic=traffic, routes_generation=3)
    items = [stamped(item) for item in manifests(desired, status, policies, 2)]
    (tmp_path / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    output = own_control_plane.kubectl(
        "apply", "--server-side", "--validate=strict", "-n", namespace, "-f", str(tmp_path / "all.json")
    )
    assert output.count("serverside-applied") == len(items)
    assert ("horizontalpodautoscaler" in output) == (shape == "scaled")
    # What the API server stores differs in its form alone, so no pass applies it again.
    for item in items:
        name = f"{item['kind']}/{item['metadata']['name']}"
        kept = json.loads(own_control_plane.kubectl("get", name, "-n", namespace, "-o", "json"))
        assert contains(kept, item), name


def test_no_pod_can_write_its_root_or_become_root() -> None:
    made = AuctionServiceSpec.model_validate(spec(**SHAPES["on GPUs, from a registry"]))
    desired = Desired("ads", "shop", "u-1", 1, datetime.now(UTC), made, AuctionServiceStatus())
    servers = PolicyServers(Served(name="v1", digest=digest("v1")), ServerSettings.of(made), 1)
    items = manifests(desired, AuctionServiceStatus(), [servers])
    pods = [item["spec"]["template"]["spec"] for item in items if item["kind"] == "Deployment"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("0[45]-*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_stored_unchanged(api: client.ApiClient, namespace: str, path: Path) -> None:
    made = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = create(api, namespace, "auctionservices", made)
    assert AuctionServiceSpec.model_validate(kept["spec"]) == AuctionServiceSpec.model_validate(made["spec"])


def test_kubectl_explains_the_service(own_control_plane: ControlPlane) -> None:
    output = own_control_plane.kubectl("explain", "auctionservice.spec.rollout")
    assert "Largest share of a new version" in " ".join(output.split())
