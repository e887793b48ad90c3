"""Simulated nodes (kwok): controllers and scheduler work without executing pods, for scale and for absent GPUs."""

from __future__ import annotations

import uuid
from typing import Any

from kubernetes import client

from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

from .conftest import eventually


def pod(**spec: Any) -> dict[str, Any]:
    """Return a pod template with one container."""
    container = {"name": "main", "image": "llm-auction.io/nothing:1", **spec}
    return {"metadata": {"labels": {"app": "it"}}, "spec": {"containers": [container]}}


def job(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a Job of one pod without retries."""
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


def test_the_pods_of_an_indexed_job_complete(kwok_api: client.ApiClient, kwok_namespace: str) -> None:
    jobs = client.BatchV1Api(kwok_api)
    spec = {"completions": 4, "parallelism": 2, "completionMode": "Indexed"}
    jobs.create_namespaced_job(kwok_namespace, job(**spec))
    eventually("all indexes are complete", lambda: status(jobs, kwok_namespace).completed_indexes == "0-3")
    eventually("the Job is complete", lambda: "Complete" in conditions(jobs, kwok_namespace))


def test_annotations_set_a_pods_duration_and_exit_code(kwok_api: client.ApiClient, kwok_namespace: str) -> None:
    jobs, core = client.BatchV1Api(kwok_api), client.CoreV1Api(kwok_api)
    jobs.create_namespaced_job(kwok_namespace, job({kwok.RUN_FOR: "3s", kwok.EXIT_CODE: "137"}))
    eventually("the job has failed", lambda: "Failed" in conditions(jobs, kwok_namespace))
    [ended] = core.list_namespaced_pod(kwok_namespace).items
    [container] = ended.status.container_statuses
    assert container.state.terminated.exit_code == 137
    assert (container.state.terminated.finished_at - ended.status.start_time).total_seconds() >= 2  # in whole seconds


def test_a_pod_waits_for_gpus_that_are_in_use(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str
) -> None:
    core, kind = client.CoreV1Api(kwok_api), f"gpu{uuid.uuid4().hex[:6]}"
    kwok.add_nodes(kwok_plane, 1, prefix=kind, labels={"gpu-type": kind}, resources={"nvidia.com/gpu": "8"})
    for name, expected in (("first", "True"), ("second", "False")):
        whole = pod(resources={"limits": {"nvidia.com/gpu": "8"}})
        whole["metadata"]["name"] = name
        whole["spec"]["nodeSelector"] = {"gpu-type": kind}
        core.create_namespaced_pod(kwok_namespace, whole)
        # The scheduler learns of the new node with a delay, and finds none for the first pod until then.
        eventually(
            f"{name} is scheduled: {expected}",
            lambda name=name, expected=expected: scheduled(core.read_namespaced_pod(name, kwok_namespace)) == expected,
        )
    assert scheduled(core.read_namespaced_pod("first", kwok_namespace)) == "True"
    core.delete_node(f"{kind}-0")


def status(jobs: client.BatchV1Api, namespace: str) -> Any:
    """Return the status of the test's Job."""
    return jobs.read_namespaced_job("it", namespace).status


def conditions(jobs: client.BatchV1Api, namespace: str) -> set[str]:
    """Return the true conditions of the test's Job."""
    return {condition.type for condition in status(jobs, namespace).conditions or [] if condition.status == "True"}


def scheduled(one: Any) -> str | None:
    """Return whether a pod is scheduled: "True", "False", or None before the scheduler has tried."""
    return next((c.status for c in one.status.conditions or [] if c.type == "PodScheduled"), None)
