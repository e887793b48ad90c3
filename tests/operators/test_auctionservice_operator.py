"""Rollout and rollback on a real API server with its controllers.

The nodes are simulated and only report that pods run. The routers' figures come from the router's own metrics class,
driven by the route file in the ConfigMap that the operator wrote.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from kubernetes import client

from mechanism.weights import served_version
from operators.auctionservice.observe import Observer
from operators.controller import Controller
from operators.kube import KubeApi
from operators.metrics import OperatorMetrics
from operators.operator import auctionservice_reconciler
from serving.cohorts import CountedAnswer
from serving.metrics import Metrics
from tests.support.cluster.control_plane import ControlPlane

from .conftest import define, eventually
from .service_world import digest, model, spec

PLACE = ("llm-auction.io", "v1alpha1")


class Site:
    """One service, a controller whose passes the test runs itself, and simulated routers with readers."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self.calls: list[tuple[str, str]] = []
        self.objects, self.core, self.apps = (
            client.CustomObjectsApi(api),
            client.CoreV1Api(api),
            client.AppsV1Api(api),
        )
        kube = KubeApi(api, lambda verb, resource: self.calls.append((verb, resource)))
        self.controller = Controller(
            auctionservice_reconciler(Observer(self.read)), kube, OperatorMetrics(), cache=kube, current=kube
        )
        self.metrics: dict[str, Metrics] = {}
        self.failing: set[str] = set()
        self.wrong: set[str] = set()
        self.stuck = False

    def read(self, address: str, since: int) -> str | None:
        """Return the report of the router at an address: it follows the file and has answered some questions."""
        try:
            routes_map = self.core.read_namespaced_config_map("ads-routes", self.namespace)
        except client.ApiException:
            return None
        routes = json.loads(routes_map.data["routes.json"])
        metrics = self.metrics.setdefault(address, Metrics())
        reports = {}
        for one in routes["versions"]:
            version, good = served_version(one["digest"], one.get("revision", "")), one["name"] not in self.wrong
            reports[one["name"]] = (version, float(one["weight"]) if good else 0.0, good)
            for i in range(40 if one["weight"] and good else 0):
                failed = one["name"] in self.failing and i % 4 == 0
                answer = CountedAnswer(
                    auction_id="",
                    created=int(time.time()),
                    version=version,
                    failed=failed,
                    asked_for_ads=True,
                    shown=1,
                    seconds=0.2,
                    penalty=5.0,
                    revenue=0,
                    currency="USD",
                )
                metrics.cohorts.count_answer(answer)
        if not self.stuck:
            metrics.follow(routes["generation"], False, reports)
        return metrics.rollout_report(since).decode()

    def create(self, **changes: Any) -> None:
        body = {"apiVersion": "/".join(PLACE), "kind": "AuctionService", "metadata": {"name": "ads"}}
        quick = {
            "rollout__steps": [{"weight": 20, "pauseSeconds": 1}],
            "rollout__guards": {"minAnswers": 100, "patienceSeconds": 2},
            "rollout__keepSeconds": 1,
        }
        store = [{"name": "store", "mountPath": "/models", "emptyDir": {}}]
        specification = spec("v1", policy__volumes=store, **quick, **changes)
        self.objects.create_namespaced_custom_object(
            *PLACE, self.namespace, "auctionservices", {**body, "spec": specification}
        )

    def patch(self, **spec: Any) -> None:
        self.objects.patch_namespaced_custom_object(*PLACE, self.namespace, "auctionservices", "ads", {"spec": spec})

    def status(self) -> dict[str, Any]:
        self.controller.reconcile((self.namespace, "ads"), time.monotonic())
        found = self.objects.get_namespaced_custom_object(*PLACE, self.namespace, "auctionservices", "ads")
        status: dict[str, Any] = found.get("status", {})
        return status

    def weights(self) -> dict[str, int]:
        return {one["name"]: one["weight"] for one in self.status()["traffic"]}

    def replicas(self) -> int:
        found: Any = self.apps.read_namespaced_deployment("ads-router", self.namespace)
        return int(found.spec.replicas)

    def policies(self) -> set[str]:
        found = self.apps.list_namespaced_deployment(self.namespace).items
        return {one.metadata.name for one in found if "policy" in one.metadata.name}


@pytest.fixture
def site(kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str) -> Site:
    define(kwok_api)
    site = Site(kwok_api, kwok_namespace)
    site.create()
    eventually("v1 serves", lambda: site.status().get("phase") == "Serving")
    return site


def test_a_version_takes_over_and_a_bad_one_is_rolled_back(site: Site) -> None:
    assert site.weights() == {"v1": 100}
    site.patch(model=model("v2"))
    seen: list[int] = []

    def v2_serves() -> bool:
        seen.append(site.weights().get("v2", 0))
        return seen[-1] == 100

    eventually("v2 has everything", v2_serves)
    assert 20 in seen
    eventually("v1 is gone", lambda: bool(site.status()) and site.policies() == {f"ads-policy-{digest('v2')[:12]}"})

    site.failing.add("v3")
    site.patch(model=model("v3"))
    eventually("v3 is rolled back", lambda: site.status()["phase"] == "RolledBack")
    status = site.status()
    assert site.weights() == {"v2": 100}
    assert status["rejected"]["reason"] == "ErrorRate"
    eventually("v3 is gone", lambda: bool(site.status()) and site.policies() == {f"ads-policy-{digest('v2')[:12]}"})
    reasons = {event.reason for event in site.core.list_namespaced_event(site.namespace).items}
    assert {"Starting", "Canary", "Promoted", "ErrorRate"} <= reasons


def test_changed_settings_take_over_as_a_version_does_or_are_rolled_back(site: Site) -> None:
    def images() -> dict[str, str]:
        found: Any = site.apps.list_namespaced_deployment(site.namespace).items
        return {
            one.metadata.name: one.spec.template.spec.containers[0].image
            for one in found
            if "policy" in one.metadata.name
        }

    first = f"ads-policy-{digest('v1')[:12]}"
    site.patch(policy={"image": "triton:26.11", "resources": {"limits": {"memory": "2Gi"}}})
    candidate = site.status()["candidate"]
    second = f"ads-policy-{candidate['revision']}"
    assert images() == {first: "triton:26.10", second: "triton:26.11"}
    eventually("the new image has everything", lambda: list(site.weights().values()) == [100])
    assert site.status()["stable"] == {**model("v1"), "base": "", "revision": candidate["revision"]}
    eventually("the former servers are gone", lambda: bool(site.status()) and images() == {second: "triton:26.11"})

    site.patch(policy={"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]})
    revision = site.status()["candidate"]["revision"]
    site.failing.add(f"v1+{revision}")
    eventually("it is rolled back", lambda: site.status()["phase"] == "RolledBack")
    assert site.status()["rejected"]["reason"] == "ErrorRate"
    eventually("its servers are gone", lambda: bool(site.status()) and images() == {second: "triton:26.11"})
    assert list(site.status()["settings"]) == [candidate["revision"]]


def test_a_version_takes_over_on_nodes_whose_gpus_are_all_in_use(
    kwok_api: client.ApiClient, kwok_namespace: str
) -> None:
    define(kwok_api)
    site = Site(kwok_api, kwok_namespace)
    site.create(policy__gpus=8, policy__replicas=2)  # all GPUs of the two nodes
    eventually("v1 serves", lambda: site.status().get("phase") == "Serving")
    site.patch(model=model("v2"))

    def waits_for_a_gpu() -> bool:
        conditions = {one["type"]: one["message"] for one in site.status()["conditions"]}
        return "Insufficient nvidia.com/gpu" in conditions["Progressing"]

    eventually("the scheduler's reason is reported", waits_for_a_gpu)
    eventually("v2 has everything", lambda: site.weights() == {"v2": 100})
    eventually("v1 is gone", lambda: bool(site.status()) and site.policies() == {f"ads-policy-{digest('v2')[:12]}"})


def test_an_adapter_takes_over_without_a_further_pod(kwok_api: client.ApiClient, kwok_namespace: str) -> None:
    define(kwok_api)
    site = Site(kwok_api, kwok_namespace)
    base = {"base": digest("base")}
    site.create(policy__gpus=8, policy__replicas=2, model__base=digest("base"))  # all GPUs of the two nodes
    eventually("v1 serves", lambda: site.status().get("phase") == "Serving")

    def pods() -> set[str]:
        labels = "app.kubernetes.io/component=policy"
        found: Any = site.core.list_namespaced_pod(site.namespace, label_selector=labels).items
        return {pod.metadata.uid for pod in found}

    before = pods()
    assert len(before) == 2
    site.patch(model={**model("v2"), **base})
    eventually("v2 has everything", lambda: site.weights() == {"v2": 100})
    eventually("v1 is forgotten", lambda: "retiring" not in site.status() or not site.status()["retiring"])
    site.failing.add("v3")
    site.patch(model={**model("v3"), **base})
    eventually("v3 is rolled back", lambda: site.status()["phase"] == "RolledBack")
    assert (site.weights(), pods()) == ({"v2": 100}, before)


def test_a_version_with_other_weights_gets_no_traffic(site: Site) -> None:
    site.wrong.add("v2")
    site.patch(model=model("v2"))

    def reason() -> str:
        conditions = {one["type"]: one for one in site.status()["conditions"]}
        return str(conditions["Progressing"]["reason"])

    eventually("the routers refuse it", lambda: reason() == "NotVerified")
    assert site.weights() == {"v1": 100, "v2": 0}


def test_a_router_that_is_behind_is_annotated(site: Site) -> None:
    # Before that, each router must have reported its route file once.
    eventually("both routers report", lambda: bool(site.status()) and len(site.metrics) == 2)
    site.stuck = True
    site.patch(model=model("v2"))

    def annotations() -> set[str]:
        site.status()
        pods = site.core.list_namespaced_pod(site.namespace, label_selector="app.kubernetes.io/component=router").items
        return {(pod.metadata.annotations or {}).get("llm-auction.io/routes", "") for pod in pods}

    eventually("the pods are annotated", lambda: annotations() == {str(site.status()["routesGeneration"])})


def test_the_autoscaler_follows_its_field(site: Site, kwok_api: client.ApiClient) -> None:
    scalers = client.AutoscalingV2Api(kwok_api)
    site.patch(router={"autoscaling": {"maxReplicas": 4}, "resources": {"requests": {"cpu": "100m"}}})
    site.status()
    found = scalers.read_namespaced_horizontal_pod_autoscaler("ads-router", site.namespace)
    assert found.spec.scale_target_ref.name == "ads-router"
    assert site.replicas() == 2
    # As the autoscaler does; without a metrics server it does not by itself.
    site.apps.patch_namespaced_deployment_scale("ads-router", site.namespace, {"spec": {"replicas": 4}})
    for _ in range(3):
        site.status()
        assert site.replicas() == 4
    site.patch(router={"autoscaling": None, "replicas": 3})
    site.status()
    assert scalers.list_namespaced_horizontal_pod_autoscaler(site.namespace).items == []
    assert site.replicas() == 3


def test_an_unchanged_service_costs_no_write(site: Site) -> None:
    def writes() -> list[tuple[str, str]]:
        site.calls.clear()
        site.status()
        return [call for call in site.calls if call[0] not in ("get", "list")]

    eventually("both routers report", lambda: bool(site.status()) and len(site.metrics) == 2)
    eventually("it settles", lambda: not writes())
    for _ in range(3):
        assert writes() == []


def test_kubectl_scale_sets_the_number_of_routers(site: Site, kwok_plane: ControlPlane) -> None:
    kwok_plane.kubectl("scale", "auctionservice", "ads", "--replicas=3", "-n", site.namespace)

    def three() -> bool:
        return site.status().get("routerReplicas") == 3

    eventually("there are three routers", three)
    output = kwok_plane.kubectl(
        "get", "auctionservice", "ads", "--subresource=scale", "-o", "json", "-n", site.namespace
    )
    scale = json.loads(output)
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (3, 3)
    pods = site.core.list_namespaced_pod(site.namespace, label_selector=scale["status"]["selector"]).items
    assert len(pods) == 3
