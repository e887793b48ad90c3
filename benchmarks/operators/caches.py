"""`python -m benchmarks.operators.caches`: memory of the operator's caches, and CPU time of a pass that reads them.

Five thousand running IRPOJobs of two pods each are put into the stores as watches deliver them; no cluster is needed.
Figures go to build/bench/operator-caches.json.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmarks.figures import machine_name, write_figures
from operators.irpojob.manifests import step_job
from operators.irpojob.observe import INDEX_ANNOTATION, Desired, observe
from operators.irpojob.plan import Place, Step
from operators.irpojob.reconcile import reconcile
from operators.objects import desired_state
from operators.resources.base import API_VERSION, Manifest
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus
from operators.store import Store
from operators.watched import IRPOJOBS, JOBS_OF_IRPOJOBS, PODS

OUT = Path("build/bench/operator-caches.json")
NAMESPACE = "training"
PODS_A_JOB = 2
CREATED = datetime(2026, 11, 29, 9, tzinfo=UTC)
TIME = "2026-11-29T09:00:00Z"
CONDITIONS = ("PodScheduled", "Initialized", "Ready", "ContainersReady", "PodReadyToStartContainers")
SPEC = IRPOJobSpec.model_validate(
    {
        "image": "llm-auction:0.1.0",
        "config": {"epochs": 3},
        "storage": {"url": "s3://bucket/auction"},
        "steps": {"rollouts": {"pods": PODS_A_JOB}},
    }
)


class Stores:
    """The caches of IRPOJobs, their Jobs and pods; reads like the operator's cache. Every node is Ready."""

    def __init__(self) -> None:
        self.by_kind = {one.kind: Store(one.label, one.trim) for one in (IRPOJOBS, JOBS_OF_IRPOJOBS, PODS[0])}

    def fill(self, count: int) -> None:
        """Add running IRPOJobs, each with its Job and pods."""
        for number in range(count):
            desired = Desired(f"job-{number}", NAMESPACE, f"uid-{number}", 1, CREATED, SPEC, _status())
            job = step_job(desired, Place(1, Step.ROLLOUTS), 0)
            job["metadata"] |= {"uid": f"uid-{number}-job", "resourceVersion": "1"}
            job["status"] = {"active": PODS_A_JOB, "ready": PODS_A_JOB}
            self.by_kind["IRPOJob"].put(_irpojob(desired))
            self.by_kind["Job"].put(job)
            for index in range(PODS_A_JOB):
                self.by_kind["Pod"].put(_pod(job, index, f"node-{number % 50}"))

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object; any node is Ready."""
        if kind == "Node":
            return {"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        return self.by_kind[kind].get((namespace or "", name))

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
        """Return the objects with a label of this value."""
        return self.by_kind[kind].with_label(namespace or "", labels.partition("=")[2])

    def serves(self, group: str) -> bool:
        """Return that every group is served."""
        return True


def _status() -> IRPOJobStatus:
    return IRPOJobStatus(steps_done=1, start_time=CREATED, active_since=CREATED, phase="Running")


def _irpojob(desired: Desired) -> Manifest:
    meta = {
        "name": desired.name,
        "namespace": NAMESPACE,
        "uid": desired.uid,
        "generation": 1,
        "resourceVersion": "1",
        "creationTimestamp": TIME,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "IRPOJob",
        "metadata": meta,
        "spec": desired.spec.to_api(),
        "status": desired.status.to_api(),
    }


def _pod(job: Manifest, index: int, node: str) -> Manifest:
    name, template = job["metadata"]["name"], job["spec"]["template"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
    meta = {
        "name": f"{name}-{index}",
        "namespace": NAMESPACE,
        "uid": f"{job['metadata']['uid']}-{index}",
        "resourceVersion": "1",
        "creationTimestamp": TIME,
        "labels": template["metadata"]["labels"],
        "annotations": {INDEX_ANNOTATION: str(index)},
        "ownerReferences": [owner],
    }
    running = {"name": "train", "ready": True, "restartCount": 0, "image": "llm-auction:0.1.0"}
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": one, "status": "True", "lastTransitionTime": TIME} for one in CONDITIONS],
        "containerStatuses": [{**running, "imageID": "0" * 71, "state": {"running": {"startedAt": TIME}}}],
    }
    spec = {**template["spec"], "nodeName": node}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators.caches", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=5000)
    parser.add_argument("--passes", type=int, default=500)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    process, stores = psutil.Process(), Stores()
    before = process.memory_info().rss
    stores.fill(given.jobs)
    memory = process.memory_info().rss - before
    objects = {one: len(store.known()) for one, store in stores.by_kind.items()}
    begun = time.process_time()
    for number in range(given.passes):
        item = stores.get(API_VERSION, "IRPOJob", NAMESPACE, f"job-{number % given.jobs}")
        assert item is not None
        desired = desired_state(item, IRPOJobSpec, IRPOJobStatus)
        reconcile(observe(stores, desired, None), desired, CREATED)
    spent = time.process_time() - begun
    figures = {
        "objects": objects,
        "memory_mb": round(memory / 2**20, 1),
        "cpu_ms_a_pass": round(1000 * spent / given.passes, 2),
        "machine": machine_name(),
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_figures(given.out, figures)
    print(given.out.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
