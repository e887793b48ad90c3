"""The operator on a real API server with its controllers; the nodes are simulated and only report that pods run.

It runs as a separate process under its own service account, so that a missing right fails a test.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from benchmarks.operators.operating import Running, operator
from operators.irpojob.observe import JOB_LABEL
from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

from .conftest import define, eventually, fresh_namespace

PLACE = ("llm-auction.io", "v1alpha1")


@pytest.fixture(scope="module")
def operated(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Running]]:
    """Run the operator for a namespace."""
    define(kwok_api)
    with fresh_namespace(kwok_api) as namespace:
        folder = tmp_path_factory.mktemp("operator")
        with operator(kwok_api, kwok_plane.kubeconfig, namespace, folder) as running:
            yield namespace, running


class Cluster:
    """Access to the objects of the namespace."""

    def __init__(self, api: client.ApiClient, namespace: str, running: Running) -> None:
        self.namespace, self.operator = namespace, running
        self.objects, self.core, self.batch = (
            client.CustomObjectsApi(api),
            client.CoreV1Api(api),
            client.BatchV1Api(api),
        )

    def create(self, *, run_for: str = "1s", code: int = 0, step: str = "reward", **spec: Any) -> str:
        """Create a job of one epoch, whose pods end after `run_for`, those of `step` with `code`; return its name."""
        name = spec.pop("name", f"job-{uuid.uuid4().hex[:8]}")
        steps = spec.pop("steps", {})
        steps[step] = {**steps.get(step, {}), "podAnnotations": {kwok.EXIT_CODE: str(code)}}
        specification = {
            "image": "llm-auction:0.1.0",
            "config": {"epochs": 1},
            "storage": {"url": "s3://bucket/auction"},
            "podAnnotations": {kwok.RUN_FOR: run_for},
            "backoffSeconds": 0,
            "steps": steps,
            **spec,
        }
        body = {"apiVersion": "/".join(PLACE), "kind": "IRPOJob", "metadata": {"name": name}, "spec": specification}
        self.objects.create_namespaced_custom_object(*PLACE, self.namespace, "irpojobs", body)
        return name

    def job(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.objects.get_namespaced_custom_object(*PLACE, self.namespace, "irpojobs", name)
        return found

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.job(name).get("status", {})
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase"))

    def change(self, name: str, **spec: Any) -> None:
        self.objects.patch_namespaced_custom_object(*PLACE, self.namespace, "irpojobs", name, {"spec": spec})

    def delete(self, name: str) -> None:
        self.objects.delete_namespaced_custom_object(*PLACE, self.namespace, "irpojobs", name)

    def pods(self, name: str) -> list[Any]:
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=f"{JOB_LABEL}={name}").items)

    def live(self, name: str) -> list[Any]:
        return [pod for pod in self.pods(name) if pod.status.phase not in ("Succeeded", "Failed")]

    def jobs(self, name: str) -> list[str]:
        items = self.batch.list_namespaced_job(self.namespace, label_selector=f"{JOB_LABEL}={name}").items
        return [item.metadata.name for item in sorted(items, key=lambda item: item.metadata.creation_timestamp)]

    def owned_objects(self, name: str) -> list[str]:
        labels = {"label_selector": f"{JOB_LABEL}={name}"}
        return [
            *self.jobs(name),
            *(pod.metadata.name for pod in self.pods(name)),
            *(item.metadata.name for item in self.core.list_namespaced_config_map(self.namespace, **labels).items),
            *(item.metadata.name for item in self.core.list_namespaced_service(self.namespace, **labels).items),
        ]

    def reason(self, name: str, condition: str) -> str:
        held = [c for c in self.status(name)["conditions"] if c["type"] == condition and c["status"] == "True"]
        return str(held[0]["reason"]) if held else ""

    def events(self, name: str) -> list[str]:
        items = self.core.list_namespaced_event(self.namespace, field_selector=f"involvedObject.name={name}").items
        return [item.reason for item in items]


@pytest.fixture
def cluster(kwok_api: client.ApiClient, operated: tuple[str, Running]) -> Cluster:
    return Cluster(kwok_api, *operated)


def test_a_job_runs_all_its_steps(cluster: Cluster) -> None:
    name = cluster.create(steps={"rollouts": {"pods": 3}, "optimisation": {"pods": 2}})
    eventually("it is complete", lambda: cluster.phase(name) == "Complete")
    status = cluster.status(name)
    assert (status["progress"], status["restarts"]) == ("6/6", 0)
    assert cluster.jobs(name) == [
        f"{name}-e1-{step}-0" for step in ("reward", "rollout", "pairs", "opt", "eval", "register")
    ]
    counts = [
        len([pod for pod in cluster.pods(name) if f"-{step}-0-" in pod.metadata.name]) for step in ("rollout", "opt")
    ]
    assert counts == [3, 2]
    assert not cluster.live(name)
    assert {"Starting", "Running", "StepComplete", "Complete"} <= set(cluster.events(name))


def test_bad_input_fails_at_once(cluster: Cluster) -> None:
    name = cluster.create(step="pairs", code=2)
    eventually("it has failed", lambda: cluster.phase(name) == "Failed")
    assert cluster.reason(name, "Failed") == "BadInput"
    failure = cluster.status(name)["lastFailure"]
    assert (failure["step"], failure["exitCode"]) == ("pairs", 2)
    assert cluster.status(name)["restarts"] == 0
    assert "BadInput" in cluster.events(name)


def test_a_step_restarts_until_the_restarts_are_used(cluster: Cluster) -> None:
    name = cluster.create(step="optimisation", code=1, steps={"optimisation": {"pods": 2}}, maxRestarts=1)
    eventually("it has failed", lambda: cluster.phase(name) == "Failed")
    assert cluster.reason(name, "Failed") == "RestartsExhausted"
    assert cluster.status(name)["lastFailure"]["reason"] == "PodFailed"
    assert cluster.jobs(name)[-1] == f"{name}-e1-opt-1"
    assert not cluster.live(name)


def test_an_evicted_pod_restarts_its_step(cluster: Cluster) -> None:
    name = cluster.create(run_for="6s")
    eventually("it runs", lambda: cluster.phase(name) == "Running")
    [pod] = cluster.live(name)
    eviction = {"metadata": {"name": pod.metadata.name, "namespace": cluster.namespace}}
    cluster.core.create_namespaced_pod_eviction(pod.metadata.name, cluster.namespace, eviction)
    eventually("the step restarts", lambda: f"{name}-e1-reward-1" in cluster.jobs(name))
    assert cluster.status(name)["lastFailure"]["reason"] == "PodLost"
    cluster.delete(name)


def test_suspension_deletes_every_pod_and_the_run_continues_after_it(cluster: Cluster) -> None:
    name = cluster.create(run_for="4s", steps={"rollouts": {"pods": 2}})
    eventually("it runs", lambda: cluster.phase(name) == "Running")
    cluster.change(name, suspend=True)
    eventually("it is suspended", lambda: cluster.phase(name) == "Suspended")
    assert not cluster.live(name)
    cluster.change(name, suspend=False)
    eventually("it is complete", lambda: cluster.phase(name) == "Complete")
    assert cluster.status(name)["restarts"] == 0


def test_deletion_leaves_nothing_even_while_the_operator_is_down(cluster: Cluster) -> None:
    name = cluster.create(run_for="300s")
    eventually("it runs", lambda: cluster.phase(name) == "Running")
    cluster.operator.kill()
    cluster.delete(name)
    eventually("nothing is left", lambda: not cluster.owned_objects(name))
    cluster.operator.start()


def test_a_killed_operator_continues_where_it_was(cluster: Cluster) -> None:
    name = cluster.create(run_for="2s")
    eventually("it runs", lambda: cluster.phase(name) == "Running")
    for _ in range(2):
        cluster.operator.kill()
        cluster.operator.start()
    eventually("it is complete", lambda: cluster.phase(name) == "Complete")
    assert cluster.jobs(name) == [
        f"{name}-e1-{step}-0" for step in ("reward", "rollout", "pairs", "opt", "eval", "register")
    ], "no step ran twice"


def test_the_pods_of_a_silent_node_are_deleted_and_the_step_restarts(
    cluster: Cluster, kwok_plane: ControlPlane
) -> None:
    [lonely] = kwok.add_nodes(kwok_plane, 1, prefix="lonely", labels={"lonely": "yes"})
    name = cluster.create(
        run_for="300s", nodeSelector={"lonely": "yes"}, nodeLossSeconds=3, step="reward", maxRestarts=1
    )
    eventually("it runs", lambda: cluster.phase(name) == "Running")
    silence = {"metadata": {"annotations": {kwok.ANNOTATION: None}}}
    cluster.core.patch_node(lonely, silence)
    lost = [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting."}
    ]
    cluster.core.patch_node_status(lonely, {"status": {"conditions": lost}})
    eventually("the step restarts", lambda: cluster.status(name)["restarts"] == 1)
    assert cluster.status(name)["lastFailure"]["reason"] == "NodeLost"
    eventually("its pod is gone", lambda: not [p for p in cluster.live(name) if "-reward-0-" in p.metadata.name])
    cluster.core.delete_node(lonely)
    cluster.delete(name)


def test_a_job_waits_for_a_name_that_is_taken_and_reports_it(cluster: Cluster) -> None:
    other = {
        "metadata": {"name": "taken-e1-reward-0"},
        "spec": {
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}},
            "suspend": True,
        },
    }
    cluster.batch.create_namespaced_job(cluster.namespace, other)
    cluster.create(name="taken")

    def reported() -> bool:
        conditions = cluster.status("taken").get("conditions", [])
        return any(c["reason"] == "ChildRefused" and "another object has this name" in c["message"] for c in conditions)

    eventually("the name is reported", reported)
    cluster.batch.delete_namespaced_job("taken-e1-reward-0", cluster.namespace, propagation_policy="Background")
    eventually("the job continues", lambda: cluster.phase("taken") == "Complete")
