"""IRPOJobs for drills, and a cluster for them whose kwok nodes only simulate that pods run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from operators.irpojob.plan import Step
from operators.resources.base import API_VERSION, GROUP, VERSION
from operators.resources.crds import KINDS, definition
from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

NAMESPACE = "training"


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[ControlPlane, client.ApiClient]]:
    """Start a control plane with its controllers, kwok nodes and this project's custom resources."""
    with ControlPlane(controllers=True) as plane:
        kwok.start(plane)
        kwok.add_nodes(plane, nodes)
        with config.new_client_from_config(str(plane.kubeconfig)) as api:
            definitions: Any = client.ApiextensionsV1Api(api)
            core: Any = client.CoreV1Api(api)
            for kind in KINDS:
                definitions.create_custom_resource_definition(definition(kind))
            core.create_namespace({"metadata": {"name": NAMESPACE}})
            yield plane, api


def manifest(name: str, run_for: str, codes: dict[Step, int] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a job of one epoch whose pods run for `run_for`; the pods of the steps in `codes` exit with that code."""
    steps = {step: {"podAnnotations": {kwok.EXIT_CODE: str(code)}} for step, code in (codes or {}).items()}
    return {
        "apiVersion": API_VERSION,
        "kind": "IRPOJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "image": "llm-auction:0.1.0",
            "config": {"epochs": 1},
            "storage": {"url": "s3://bucket/auction"},
            "podAnnotations": {kwok.RUN_FOR: run_for},
            "steps": {str(step): one for step, one in steps.items()},
            **spec,
        },
    }


class Jobs:
    """The IRPOJobs of the namespace, accessed as by their owner."""

    def __init__(self, api: client.ApiClient) -> None:
        self._objects: Any = client.CustomObjectsApi(api)
        self._place = (GROUP, VERSION, NAMESPACE, "irpojobs")

    def create(self, job: dict[str, Any]) -> None:
        """Create a job, retrying while the API server is unavailable."""
        retrying(lambda: self._objects.create_namespaced_custom_object(*self._place, job), 409)

    def delete(self, name: str) -> None:
        """Delete a job, if it exists."""
        retrying(lambda: self._objects.delete_namespaced_custom_object(*self._place, name), 404)

    def all(self) -> dict[str, dict[str, Any]]:
        """Return every job's status, by name."""
        found = retrying(lambda: self._objects.list_namespaced_custom_object(*self._place))
        return {item["metadata"]["name"]: item.get("status") or {} for item in found["items"]}


def retrying(call: Callable[[], Any], accepted: int = 0, seconds: float = 180.0) -> Any:
    """Return a call's result, retrying while the API server is unavailable; None if it refuses with `accepted`."""
    end = time.monotonic() + seconds
    while True:
        try:
            return call()
        except ApiException as error:
            if error.status == accepted:
                return None
            if error.status is not None and error.status < 500 and error.status not in (0, 429):
                raise
            if time.monotonic() > end:
                raise
        except OSError:
            if time.monotonic() > end:
                raise
        except Exception as error:  # urllib3 has its own errors for a server that is unavailable
            if type(error).__module__.partition(".")[0] != "urllib3" or time.monotonic() > end:
                raise
        time.sleep(0.5)
