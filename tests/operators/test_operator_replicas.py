"""Two replicas on a real API server: one leads, the other takes over, and nothing is written twice."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from benchmarks.operators.operating import STOP_S, Running, replicas
from operators.lease import DURATION_S
from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

from .conftest import define, eventually

PLACE = ("llm-auction.io", "v1alpha1")


class Replicas:
    """Two operators of one namespace with one Lease, and the namespace's objects."""

    def __init__(self, api: client.ApiClient, namespace: str, running: list[Running]) -> None:
        self.namespace, self.running = namespace, running
        self.objects: Any = client.CustomObjectsApi(api)
        self.batch: Any = client.BatchV1Api(api)
        self.core: Any = client.CoreV1Api(api)
        self.leases: Any = client.CoordinationV1Api(api)

    def holder(self) -> str:
        try:
            return str(self.leases.read_namespaced_lease("operator", self.namespace).spec.holder_identity or "")
        except client.ApiException:
            return ""

    def leader(self) -> Running:
        """Return the process that holds the Lease; its name has the process id."""
        eventually("one leads", lambda: any(self._leads(one) for one in self.running))
        return next(one for one in self.running if self._leads(one))

    def _leads(self, one: Running) -> bool:
        return f"_{one.process.pid}_" in self.holder()

    def create(self, name: str, run_for: str) -> None:
        spec = {
            "image": "llm-auction:0.1.0",
            "config": {"epochs": 1},
            "storage": {"url": "s3://bucket/auction"},
            "podAnnotations": {kwok.RUN_FOR: run_for},
        }
        body = {"apiVersion": "/".join(PLACE), "kind": "IRPOJob", "metadata": {"name": name}, "spec": spec}
        self.objects.create_namespaced_custom_object(*PLACE, self.namespace, "irpojobs", body)

    def phase(self, name: str) -> str:
        found = self.objects.get_namespaced_custom_object(*PLACE, self.namespace, "irpojobs", name)
        return str(found.get("status", {}).get("phase"))

    def reasons(self) -> Counter[tuple[str, str]]:
        """Count the events by their reason and message."""
        return Counter((one.reason, one.message) for one in self.core.list_namespaced_event(self.namespace).items)


@pytest.fixture
def two(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str, tmp_path: Path
) -> Iterator[Replicas]:
    define(kwok_api)
    with replicas(kwok_api, kwok_plane.kubeconfig, kwok_namespace, tmp_path, 2) as running:
        yield Replicas(kwok_api, kwok_namespace, running)


def test_another_replica_takes_over_from_one_that_was_killed_frozen_or_stopped(two: Replicas) -> None:
    first = two.leader()
    two.create("killed", "2s")
    eventually("it runs", lambda: two.phase("killed") == "Running")
    first.kill()
    eventually("the job ends", lambda: two.phase("killed") == "Complete")
    first.start()
    second = two.leader()
    assert second is not first

    two.create("frozen", "2s")
    eventually("it runs", lambda: two.phase("frozen") == "Running")
    second.process.send_signal(signal.SIGSTOP)
    eventually("the job ends", lambda: two.phase("frozen") == "Complete")
    assert two.leader() is first
    time.sleep(DURATION_S)
    second.process.send_signal(signal.SIGCONT)
    eventually("the frozen one notices", lambda: second.process.poll() is not None)
    assert second.process.returncode != 0
    second.start()

    two.create("stopped", "2s")
    eventually("it runs", lambda: two.phase("stopped") == "Running")
    first.process.terminate()
    first.process.wait(STOP_S)
    assert first.process.returncode == 0
    eventually("it is handed over", lambda: two.leader() is second)
    eventually("the job ends", lambda: two.phase("stopped") == "Complete")

    jobs = [job.metadata.name for job in two.batch.list_namespaced_job(two.namespace).items]
    steps = ("reward", "rollout", "pairs", "opt", "eval", "register")
    names = ("killed", "frozen", "stopped")
    assert sorted(jobs) == sorted(f"{name}-e1-{step}-0" for name in names for step in steps), "no step ran twice"
    ends = [count for (reason, _), count in two.reasons().items() if reason == "Complete"]
    assert sum(ends) == 3, "no event was written twice"
    first.start()
