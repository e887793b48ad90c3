"""The operator's process, with the rights of its role only, reconciles services and policies as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubernetes import client

from benchmarks.operators.jobs import retrying
from benchmarks.operators.operating import ACCOUNT, Running, grant, kubeconfig_with, operator
from tests.support.cluster.control_plane import ControlPlane

from .conftest import define, eventually
from .examples import example
from .service_world import spec

PLACE = ("llm-auction.io", "v1alpha1")


def test_the_rights_of_the_role_suffice_for_services_and_policies(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str, tmp_path: Path
) -> None:
    define(kwok_api)
    objects, apps = client.CustomObjectsApi(kwok_api), client.AppsV1Api(kwok_api)

    def create(kind: str, plural: str, name: str, specification: dict[str, Any]) -> None:
        body = {"apiVersion": "/".join(PLACE), "kind": kind, "metadata": {"name": name}, "spec": specification}
        objects.create_namespaced_custom_object(*PLACE, kwok_namespace, plural, body)

    def status(plural: str, name: str) -> dict[str, Any]:
        found = objects.get_namespaced_custom_object(*PLACE, kwok_namespace, plural, name)
        status: dict[str, Any] = found.get("status", {})
        return status

    scaled = {
        "router__autoscaling": {"maxReplicas": 4},
        "router__resources": {"requests": {"cpu": "100m"}},
    }
    with operator(kwok_api, kwok_plane.kubeconfig, kwok_namespace, tmp_path) as running:
        create("AuctionService", "auctionservices", "ads", spec(**scaled))
        create("RetrainPolicy", "retrainpolicies", "nightly", example("06-retrain.yaml", service__name="ads")["spec"])
        eventually("the service is reconciled", lambda: status("auctionservices", "ads").get("phase") == "Pending")
        eventually(
            "the policy waits for it",
            lambda: status("retrainpolicies", "nightly").get("waitingFor") == "a stable version of ads",
        )
        eventually("its objects are created", lambda: len(apps.list_namespaced_deployment(kwok_namespace).items) == 2)
        scalers = client.AutoscalingV2Api(kwok_api)
        wanted = {"router": {"autoscaling": None}}
        objects.patch_namespaced_custom_object(*PLACE, kwok_namespace, "auctionservices", "ads", {"spec": wanted})
        eventually(
            "the obsolete object is deleted",
            lambda: not scalers.list_namespaced_horizontal_pod_autoscaler(kwok_namespace).items,
        )

        # The service's status as it would be once its first version serves.
        stable = {"stable": {"name": "v1", "digest": "a" * 64}}
        objects.patch_namespaced_custom_object_status(
            *PLACE, kwok_namespace, "auctionservices", "ads", {"status": stable}
        )
        batch = client.BatchV1Api(kwok_api)
        eventually("the log is read", lambda: _looks(batch, kwok_namespace) == ["nightly-look-1"])
        assert "Forbidden" not in running.log.read_text(encoding="utf-8")
        assert "forbidden" not in running.log.read_text(encoding="utf-8")
        objects.delete_namespaced_custom_object(*PLACE, kwok_namespace, "auctionservices", "ads")
        objects.delete_namespaced_custom_object(*PLACE, kwok_namespace, "retrainpolicies", "nightly")
        eventually("deletion leaves nothing", lambda: not apps.list_namespaced_deployment(kwok_namespace).items)


def test_credentials_that_stay_refused_end_the_process(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str, tmp_path: Path
) -> None:
    # An operator that runs but watches nothing would look healthy and never be restarted.
    define(kwok_api)
    core: Any = client.CoreV1Api(kwok_api)
    objects: Any = client.CustomObjectsApi(kwok_api)

    def phase(name: str) -> str | None:
        found = objects.get_namespaced_custom_object(*PLACE, kwok_namespace, "auctionservices", name)
        phase: str | None = found.get("status", {}).get("phase")
        return phase

    def create(name: str) -> None:
        body = {"apiVersion": "/".join(PLACE), "kind": "AuctionService", "metadata": {"name": name}, "spec": spec()}
        retrying(lambda: objects.create_namespaced_custom_object(*PLACE, kwok_namespace, "auctionservices", body))

    access = kubeconfig_with(
        grant(kwok_api, kwok_namespace, [kwok_namespace]), kwok_plane.kubeconfig, tmp_path / "kubeconfig"
    )
    running = Running(access, [kwok_namespace], tmp_path / "log")
    try:
        create("before")
        eventually("the operator works", lambda: phase("before") == "Pending")
        core.delete_namespaced_service_account(ACCOUNT, kwok_namespace)
        kwok_plane.kill_api_server()  # the watches start again and are refused
        kwok_plane.start_api_server()

        eventually("the process ends", lambda: running.process.poll() is not None, 100)
        assert running.process.returncode != 0
    finally:
        running.kill()


def _looks(batch: client.BatchV1Api, namespace: str) -> list[str]:
    return [job.metadata.name for job in batch.list_namespaced_job(namespace).items]
