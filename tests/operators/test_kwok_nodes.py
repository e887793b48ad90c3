"""Controllers act and nodes answer where no node executes anything: for scale, and for GPUs that are not there."""

from __future__ import annotations

import uuid
from typing import Any

from kubernetes import client

from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

from .conftest import eventually


def pod(**spec: Any) -> dict[str, Any]:
    """A pod's template with one container."""
    container = {"name": "main", "image": "llm-auction.io/nothing:1", **spec}
    return {"metadata": {"labels": {"app": "it"}}, "spec": {"containers": [container]}}


def job(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A Job of one pod that is not tried again."""
    template = pod()
    template["metadata"]["annotations"] = annotations or {}
    template["spec"]["restartPolicy"] = "Never"
    return {"metadata": {"name": "it"}, "spec": {"backoffLimit": 0, "template": template, **spec}}


def test_a_deployment_makes_pods_that_run(kwok_api: client.ApiClient, kwok_namespace: str) -> None:
    apps, core = client.AppsV1Api(kwok_api), client.CoreV1Api(kwok_api)
    spec = {"replicas": 3, "selector": {"matchLabels": {"app": "it"}}, "template": pod()}
    apps.create_namespaced_deployment(kwok_namespace, {"metadata": {"name": "it"}, "spec": spec})
    eventually(
        "three replicas are available",
        lambda: apps.read_namespaced_deployment("it", kwok_namespace).status.available_replicas == 3,
    )
    running = core.list_namespaced_pod(kwok_namespace, label_selector="app=it").items
    assert [one.status.phase for one in running] == ["Running"] * 3
    assert len({one.status.pod_ip for one in running}) == 3

    apps.delete_namespaced_deployment("it", kwok_namespace)
    eventually("its pods are gone with it", lambda: not core.list_namespaced_pod(kwok_namespace).items)


def test_the_pods_of_an_indexed_job_end_by_themselves(kwok_api: client.ApiClient, kwok_namespace: str) -> None:
    jobs = client.BatchV1Api(kwok_api)
    spec = {"completions": 4, "parallelism": 2, "completionMode": "Indexed"}
    jobs.create_namespaced_job(kwok_namespace, job(**spec))
    eventually("all indexes are complete", lambda: status(jobs, kwok_namespace).completed_indexes == "0-3")
    eventually("the job is", lambda: "Complete" in conditions(jobs, kwok_namespace))


def test_a_pod_ends_with_the_code_and_after_the_time_that_it_is_annotated_with(
    kwok_api: client.ApiClient, kwok_namespace: str
) -> None:
    jobs, core = client.BatchV1Api(kwok_api), client.CoreV1Api(kwok_api)
    jobs.create_namespaced_job(kwok_namespace, job({kwok.RUN_FOR: "3s", kwok.EXIT_CODE: "137"}))
    eventually("the job has failed", lambda: "Failed" in conditions(jobs, kwok_namespace))
    [ended] = core.list_namespaced_pod(kwok_namespace).items
    [container] = ended.status.container_statuses
    assert container.state.terminated.exit_code == 137
    assert (container.state.terminated.finished_at - ended.status.start_time).total_seconds() >= 2  # of whole seconds


def test_a_pod_waits_for_gpus_that_no_node_has_left(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str
) -> None:
    core, kind = client.CoreV1Api(kwok_api), f"gpu{uuid.uuid4().hex[:6]}"
    kwok.add_nodes(kwok_plane, 1, prefix=kind, labels={"gpu-type": kind}, resources={"nvidia.com/gpu": "8"})
    for name, fate in (("first", "True"), ("second", "False")):
        whole = pod(resources={"limits": {"nvidia.com/gpu": "8"}})
        whole["metadata"]["name"] = name
        whole["spec"]["nodeSelector"] = {"gpu-type": kind}
        core.create_namespaced_pod(kwok_namespace, whole)
        # The scheduler hears of the new node a moment after it is Ready, and until then finds none for the first pod.
        eventually(
            f"{name} is scheduled: {fate}",
            lambda name=name, fate=fate: scheduled(core.read_namespaced_pod(name, kwok_namespace)) == fate,
        )
    assert scheduled(core.read_namespaced_pod("first", kwok_namespace)) == "True"
    core.delete_node(f"{kind}-0")


def status(jobs: client.BatchV1Api, namespace: str) -> Any:
    """The status of the test's Job."""
    return jobs.read_namespaced_job("it", namespace).status


def conditions(jobs: client.BatchV1Api, namespace: str) -> set[str]:
    """The conditions of the test's Job that hold."""
    return {condition.type for condition in status(jobs, namespace).conditions or [] if condition.status == "True"}


def scheduled(one: Any) -> str | None:
    """What the scheduler found for a pod: "True", "False", or None as long as it has not looked."""
    return next((c.status for c in one.status.conditions or [] if c.type == "PodScheduled"), None)
