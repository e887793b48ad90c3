"""An operator whose objects do not change costs the API server nothing but its watches."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from kubernetes import client

from operators.kube import connect
from operators.operator import Operator, Settings
from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

from .conftest import define, eventually

PLACE = ("llm-auction.io", "v1alpha1")
JOBS = 5


def counted(operator: Operator, name: str) -> Counter[str]:
    """Return a counter of the operator by its labels."""
    found = Counter[str]()
    for metric in operator.metrics.registry.collect():
        for sample in metric.samples:
            if sample.name == name:
                found[" ".join(sample.labels.values())] += int(sample.value)
    return found


def requests(operator: Operator) -> Counter[str]:
    """Return the requests to the API server that are not watches."""
    calls = counted(operator, "llm_auction_operator_api_calls_total")
    return Counter({name: count for name, count in calls.items() if not name.startswith("watch ")})


def test_passes_over_unchanged_objects_send_nothing(
    kwok_plane: ControlPlane, kwok_api: client.ApiClient, kwok_namespace: str
) -> None:
    define(kwok_api)
    objects: Any = client.CustomObjectsApi(kwok_api)

    def phases() -> list[str]:
        found = objects.list_namespaced_custom_object(*PLACE, kwok_namespace, "irpojobs")["items"]
        return [str(item.get("status", {}).get("phase")) for item in found]

    with connect(str(kwok_plane.kubeconfig)) as connection:
        operator = Operator(connection, Settings((kwok_namespace,), threads=2))
        thread = threading.Thread(target=operator.run)
        thread.start()
        try:
            for number in range(JOBS):
                spec = {
                    "image": "llm-auction:0.1.0",
                    "config": {"epochs": 1},
                    "storage": {"url": "s3://bucket/auction"},
                    "podAnnotations": {kwok.RUN_FOR: "24h"},
                }
                meta = {"name": f"job-{number}"}
                body = {"apiVersion": "/".join(PLACE), "kind": "IRPOJob", "metadata": meta, "spec": spec}
                objects.create_namespaced_custom_object(*PLACE, kwok_namespace, "irpojobs", body)
            eventually("all run", lambda: phases() == ["Running"] * JOBS)

            def passes() -> int:
                return counted(operator, "llm_auction_operator_rounds_total")["IRPOJob done"]

            def settled() -> bool:
                before, done = requests(operator), passes()
                for number in range(JOBS):
                    operator.irpojobs.queue.add((kwok_namespace, f"job-{number}"))
                eventually("they are reconciled", lambda: passes() >= done + JOBS)
                return requests(operator) == before

            eventually("nothing changes any more", settled)
            for _ in range(3):
                assert settled()
        finally:
            operator.stop()
            thread.join()
