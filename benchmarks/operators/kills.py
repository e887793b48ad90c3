"""`python -m benchmarks.operators.kills`: do IRPOJobs end correctly when pods, nodes and servers are killed?

While twenty jobs run, pods are failed, evicted and deleted, nodes stop reporting, and the API server and the operator's
two replicas are killed. Each job must end Complete or with the true reason, and leave nothing behind. Nodes and pods
exist only in the API (kwok), so that steps take seconds. Figures go to build/bench/operator.json.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client

from benchmarks.figures import write_figures
from benchmarks.operators.jobs import NAMESPACE, Jobs, cluster, manifest, retrying
from benchmarks.operators.operating import Running, replicas
from operators.irpojob.observe import JOB_LABEL
from operators.irpojob.plan import Step
from tests.support.cluster import kwok
from tests.support.cluster.control_plane import ControlPlane

OUT = Path("build/bench/operator.json")
PLANNED = {2: "BadInput", 3: "GuardFired", 4: "OutOfMemory", 1: "RestartsExhausted"}
ENDS = ("Complete", "Failed")
REPLICAS = 2
"""Replicas of the operator, of which one leads."""
HEALING = {"PodFailed", "PodLost", "NodeLost"}
LONGEST_S = 900.0
"""How long the jobs may take to end after the last fault."""


@dataclass
class Drill:
    """The cluster, the jobs, the injected faults, and the exit codes with which some jobs are planned to fail."""

    plane: ControlPlane
    api: client.ApiClient
    running: list[Running]
    rng: random.Random
    epochs: int
    planned: dict[str, int] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # the client's methods accept plain dictionaries, which its annotations do not say
        self.jobs = Jobs(self.api)
        self.core: Any = client.CoreV1Api(self.api)
        self.batch: Any = client.BatchV1Api(self.api)

    def refill(self, count: int) -> None:
        """Record and delete the jobs that have ended, and create new ones until `count` run."""
        for name, status in self.jobs.all().items():
            if status.get("phase") in ENDS:
                self.ended[name] = status
                self.jobs.delete(name)
        for number in range(len(self.created), len(self.ended) + count):
            self._make(number)

    def _make(self, number: int) -> None:
        """Create a job with two optimisation pods and two rollout pods; every fifth is planned to fail in some step."""
        name = f"job-{number:03d}"
        self.created.append(name)
        codes: dict[Step, int] = {}
        if number % 5 == 4:
            self.planned[name] = code = [2, 3, 4, 1][number // 5 % 4]
            codes = {self.rng.choice([Step.REWARD, Step.ROLLOUTS, Step.OPTIMISATION]): code}
        job = manifest(
            name,
            f"{self.rng.randint(4, 12)}s",
            codes,
            config={"epochs": self.epochs},
            maxRestarts=40,
            backoffSeconds=1,
            nodeLossSeconds=5,
        )
        if self.planned.get(name) == 1:
            job["spec"]["maxRestarts"] = 2
        for step in ("rollouts", "optimisation"):
            job["spec"]["steps"].setdefault(step, {})["pods"] = 2
        self.jobs.create(job)

    def inject_fault(self) -> None:
        """Inject a random fault; it is counted if there was a target for it."""
        kinds: list[tuple[int, Callable[[], bool]]] = [
            (10, self.fail_pod),
            (6, self.delete_pod),
            (4, self.evict_pod),
            (4, self.silence_node),
            (4, self.kill_operator),
            (3, self.kill_api_server),
            (2, self.pause),
        ]
        [what] = self.rng.choices([one for _, one in kinds], [weight for weight, _ in kinds])
        if what():
            self.done[what.__name__] += 1

    def _pod(self) -> Any | None:
        found = retrying(lambda: self.core.list_namespaced_pod(NAMESPACE, label_selector=JOB_LABEL)).items
        live = [pod for pod in found if pod.status.phase == "Running"]
        return self.rng.choice(live) if live else None

    def fail_pod(self) -> bool:
        """Let a container end with an error."""
        if (pod := self._pod()) is None:
            return False
        ended = {"exitCode": 1, "reason": "Error", "message": "drill", "finishedAt": _now(), "startedAt": _now()}
        state = {"name": "train", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        status = {"phase": "Failed", "containerStatuses": [{**state, "state": {"terminated": ended}}]}
        name = pod.metadata.name
        retrying(lambda: self.core.patch_namespaced_pod_status(name, NAMESPACE, {"status": status}), 404)
        return True

    def delete_pod(self) -> bool:
        """Delete a pod."""
        if (pod := self._pod()) is None:
            return False
        retrying(lambda: self.core.delete_namespaced_pod(pod.metadata.name, NAMESPACE), 404)
        return True

    def evict_pod(self) -> bool:
        """Evict a pod, as draining its node does."""
        if (pod := self._pod()) is None:
            return False
        name = pod.metadata.name
        body = {"metadata": {"name": name, "namespace": NAMESPACE}}
        retrying(lambda: self.core.create_namespaced_pod_eviction(name, NAMESPACE, body), 404)
        return True

    def silence_node(self) -> bool:
        """Stop a node's heartbeats for some seconds."""
        name = f"kwok-{self.rng.randrange(4)}"
        silent = {"metadata": {"annotations": {kwok.ANNOTATION: None}}}
        unknown = [
            {
                "type": "Ready",
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "drill",
                "lastTransitionTime": _now(),
            }
        ]
        retrying(lambda: self.core.patch_node(name, silent), 404)
        retrying(lambda: self.core.patch_node_status(name, {"status": {"conditions": unknown}}), 404)
        time.sleep(self.rng.uniform(3, 12))
        retrying(lambda: self.core.patch_node(name, {"metadata": {"annotations": {kwok.ANNOTATION: "fake"}}}), 404)
        return True

    def kill_operator(self) -> bool:
        """Kill a replica of the operator and restart it."""
        one = self.rng.choice(self.running)
        one.kill()
        time.sleep(self.rng.uniform(0, 5))
        one.start()
        return True

    def restart_ended_replicas(self) -> None:
        """Start replicas again that ended because they could not renew the Lease."""
        for one in self.running:
            one.restart_if_ended()

    def kill_api_server(self) -> bool:
        """Kill the API server and restart it."""
        self.plane.kill_api_server()
        time.sleep(self.rng.uniform(0, 3))
        self.plane.start_api_server()
        return True

    def pause(self) -> bool:
        """Suspend a job and resume it."""
        going = [name for name, one in self.jobs.all().items() if one.get("phase") not in ENDS]
        if not going:
            return False
        name = self.rng.choice(sorted(going))
        objects: Any = client.CustomObjectsApi(self.api)
        for held in (True, False):
            body = {"spec": {"suspend": held}}
            retrying(
                lambda body=body: objects.patch_namespaced_custom_object(  # type: ignore[misc]
                    "llm-auction.io", "v1alpha1", NAMESPACE, "irpojobs", name, body
                )
            )
            time.sleep(self.rng.uniform(0, 4))
        return True

    def wait(self) -> dict[str, dict[str, Any]]:
        """Wait until all jobs have ended, at most LONGEST_S, and return every job's status."""
        end = time.monotonic() + LONGEST_S
        while True:
            found = self.ended | self.jobs.all()
            if time.monotonic() > end or all(one.get("phase") in ENDS for one in found.values()):
                return found
            self.restart_ended_replicas()
            time.sleep(2)

    def true_reason(self, name: str, status: dict[str, Any]) -> bool:
        """Return whether a failed job's condition and last failure match what was done to it."""
        failed = next(c for c in status["conditions"] if c["type"] == "Failed" and c["status"] == "True")
        reason, last = failed["reason"], status["lastFailure"]
        if name not in self.planned:
            return reason == "RestartsExhausted" and status["restarts"] == 40 and last["reason"] in HEALING
        code = self.planned[name]
        if reason == PLANNED[code] and code != 1:
            return bool(last["exitCode"] == code)
        return bool(code == 1 and reason == "RestartsExhausted" and status["restarts"] == 2)

    def live(self) -> list[str]:
        """Return the pods that hold resources and the Jobs that still create some."""
        pods = retrying(lambda: self.core.list_namespaced_pod(NAMESPACE, label_selector=JOB_LABEL)).items
        jobs = retrying(lambda: self.batch.list_namespaced_job(NAMESPACE, label_selector=JOB_LABEL)).items
        held = [pod.metadata.name for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]
        return held + [job.metadata.name for job in jobs if job.status.active]

    def left_after_deletion(self, names: list[str], seconds: float = 180.0) -> list[str]:
        """Delete jobs while the operator is down, and return the objects that remain."""
        for one in self.running:
            one.kill()
        for name in names:
            self.jobs.delete(name)
        end = time.monotonic() + seconds
        while True:
            labels = {"label_selector": JOB_LABEL}
            lists = [
                self.core.list_namespaced_pod,
                self.batch.list_namespaced_job,
                self.core.list_namespaced_config_map,
                self.core.list_namespaced_service,
            ]
            left = [one.metadata.name for every in lists for one in every(NAMESPACE, **labels).items]
            if not left or time.monotonic() > end:
                for one in self.running:
                    one.start()
                return left
            time.sleep(1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def main() -> None:
    """Run the drill; exit status 1 if a job is stuck, has a wrong reason or leaves something behind."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators.kills", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--jobs", type=int, default=20, help="jobs at a time: where one has ended, another is created")
    parser.add_argument("--seconds", type=float, default=3600.0, help="duration of the faults")
    parser.add_argument("--pause", type=float, default=6.0, help="mean seconds between two faults")
    parser.add_argument("--epochs", type=int, default=6, help="of each job: five steps of 4 to 12 seconds in each")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    begun = time.monotonic()
    with (
        cluster(4) as (plane, api),
        tempfile.TemporaryDirectory() as folder,
        replicas(api, plane.kubeconfig, NAMESPACE, Path(folder), REPLICAS) as running,
    ):
        drill = Drill(plane, api, running, random.Random(given.seed), given.epochs)
        end = time.monotonic() + given.seconds
        while (left_s := end - time.monotonic()) > 0:
            drill.refill(given.jobs)
            time.sleep(min(left_s, drill.rng.expovariate(1 / given.pause)))
            drill.inject_fault()
            drill.restart_ended_replicas()
            print(f"{left_s:.0f} s left, {len(drill.created)} jobs created, {drill.done.total()} faults", flush=True)
        names = drill.created
        found = drill.wait()
        held = drill.live()
        left = drill.left_after_deletion([name for name in found if name not in drill.ended])
    phases = Counter(str(one.get("phase")) for one in found.values())
    failed = {name: one for name, one in found.items() if one.get("phase") == "Failed"}
    untrue = {name: one["lastFailure"] for name, one in failed.items() if not drill.true_reason(name, one)}
    stuck = sorted(name for name, one in found.items() if one.get("phase") not in ENDS)
    wrong = sorted(name for name, one in found.items() if one.get("phase") == "Complete" and name in drill.planned)
    figures = {
        "jobs": len(names),
        "at_a_time": given.jobs,
        "complete": phases["Complete"],
        "failed_with_reason": len(failed) - len(untrue),
        "failed_with_untrue_reason": untrue,
        "complete_though_bound_to_fail": wrong,
        "stuck": len(stuck),
        "stuck_jobs": {name: found[name] for name in stuck},
        "orphans": len(held) + len(left),
        "orphan_names": held + left,
        "restarts": sum(int(one.get("restarts") or 0) for one in found.values()),
        "disturbed_for_s": given.seconds,
        "disturbances": dict(sorted(drill.done.items())),
        "reasons": dict(Counter(_reason(one) for one in failed.values())),
        "seconds": round(time.monotonic() - begun),
        "seed": given.seed,
        "date": _now(),
    }
    write_figures(given.out, figures)
    print(given.out.read_text(encoding="utf-8"), end="")
    if untrue or stuck or held or left or wrong or len(found) != len(names):
        raise SystemExit(1)


def _reason(status: dict[str, Any]) -> str:
    return next(str(c["reason"]) for c in status["conditions"] if c["type"] == "Failed" and c["status"] == "True")


if __name__ == "__main__":
    main()
