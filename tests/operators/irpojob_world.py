"""A model of Kubernetes for the IRPOJob reconciler: Jobs, pods and nodes, and the failures that can happen to them.

As with the Job controller, all pods start at once, and one failed pod fails its Job, which then deletes the others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from operators.irpojob.observe import Desired, Observed, ObservedJob, ObservedPod, place_of
from operators.irpojob.plan import Place, Step
from operators.irpojob.reconcile import reconcile
from operators.reconciliation import Apply, Create, Delete, Reconciliation
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus

BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)
GRACE = timedelta(seconds=30)


def spec_of(**changes: Any) -> IRPOJobSpec:
    """Return a specification of two epochs with two rollout pods and two optimisation pods."""
    spec: dict[str, Any] = {
        "config": {"epochs": 2},
        "image": "llm-auction:1",
        "storage": {"url": "s3://bucket/auction"},
        "steps": {"rollouts": {"pods": 2}, "optimisation": {"pods": 2}},
        **changes,
    }
    return IRPOJobSpec.model_validate(spec)


@dataclass
class World:
    """One IRPOJob and its cluster. `done`: finished steps in order; `ran`: names of all Jobs that were created."""

    desired: Desired
    now: datetime = BEGIN
    jobs: dict[str, ObservedJob] = field(default_factory=dict)
    pods: dict[str, ObservedPod] = field(default_factory=dict)
    nodes: dict[str, datetime | None] = field(default_factory=lambda: {"n0": None, "n1": None})
    deleted: bool = False
    queues: bool = True
    done: list[Place] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    _uids: Any = field(default_factory=itertools.count)

    @classmethod
    def of(cls, **changes: Any) -> World:
        return cls(Desired("quick", "default", "uid", 1, BEGIN, spec_of(**changes), IRPOJobStatus()))

    @property
    def status(self) -> IRPOJobStatus:
        return self.desired.status

    def set_spec(self, **changes: Any) -> None:
        self.desired = replace(self.desired, spec=self.desired.spec.model_copy(update=changes))

    def observed(self) -> Observed:
        return Observed(tuple(self.jobs.values()), tuple(self.pods.values()), dict(self.nodes), queues=self.queues)

    def reconcile(self, acts: int | None = None) -> Reconciliation[IRPOJobStatus]:
        """Run a pass. With `acts` the operator dies in it, after writing the status and the first `acts` actions."""
        outcome = reconcile(self.observed(), self.desired, self.now)
        self.desired = replace(self.desired, status=outcome.status)
        self.events += [str(one.reason) for one in outcome.events]
        for action in outcome.actions[:acts]:
            self._do(action)
        return outcome

    def settle(self, passes: int = 12) -> None:
        """Run passes until one changes nothing."""
        for _ in range(passes):
            before = (self.desired, dict(self.jobs), dict(self.pods))
            self.reconcile()
            if before == (self.desired, self.jobs, self.pods):
                return

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- Kubernetes ------------------------------------------------------------------------------------------------

    def _do(self, action: Apply | Create | Delete) -> None:
        match action:
            case Create(manifest) if manifest["kind"] == "Job" and manifest["metadata"]["name"] not in self.jobs:
                self._create(manifest)
            case Delete(_, "Job", name, uid) if name in self.jobs and self.jobs[name].uid == uid:
                self.jobs[name] = replace(self.jobs[name], deleting=True)
            case Delete(_, "Pod", name, uid, now) if name in self.pods and self.pods[name].uid == uid:
                assert now
                del self.pods[name]
            case Delete(_, "IRPOJob", _, _):
                self.deleted = True

    def _create(self, manifest: dict[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        live = [pod.name for pod in self.pods.values() if pod.live and self._answers(pod)]
        assert not live, f"{name} is created beside {live}"
        assert not [job.name for job in self.jobs.values() if job.state == "active"], f"{name} is created beside a Job"
        self.ran.append(name)
        place, attempt = place_of(manifest["metadata"]["labels"])
        owner = f"j{next(self._uids)}"
        self.jobs[name] = ObservedJob(name, owner, place, attempt, "active")
        ready = [node for node, since in self.nodes.items() if since is None]
        for index in range(manifest["spec"]["completions"]):
            node, phase = (ready[index % len(ready)], "Running") if ready else (None, "Pending")
            pod = f"{name}-{index}"
            self.pods[pod] = ObservedPod(
                pod, f"p{next(self._uids)}", owner, place, attempt, phase, self.now, index, node
            )
        self._count_ready(name)

    def _pods_of(self, job: ObservedJob) -> list[ObservedPod]:
        return [pod for pod in self.pods.values() if pod.owner == job.uid]

    def _count_ready(self, name: str) -> None:
        job = self.jobs[name]
        running = [pod for pod in self._pods_of(job) if pod.phase in ("Running", "Succeeded")]
        self.jobs[name] = replace(job, ready=len(running))

    def tick(self) -> None:
        """Let the scheduler, the Job controller, the responding kubelets and the garbage collector catch up."""
        ready = [node for node, since in self.nodes.items() if since is None]
        for pod in list(self.pods.values()):
            if pod.node is None and ready:
                self.pods[pod.name] = replace(pod, node=ready[pod.index % len(ready)], phase="Running")
        for job in list(self.jobs.values()):
            pods = self._pods_of(job)
            failing = any(pod.phase == "Failed" for pod in pods)
            for pod in pods:
                if pod.live and (job.deleting or failing):
                    if self._answers(pod):
                        del self.pods[pod.name]
                    else:
                        self.pods[pod.name] = replace(pod, gone_by=pod.gone_by or self.now + GRACE)
            left = self._pods_of(job)
            if job.deleting and not any(pod.live for pod in left):
                del self.jobs[job.name]
                for pod in left:
                    del self.pods[pod.name]
            elif job.state == "active" and not any(pod.live for pod in left):
                wanted = _count_of(self.desired, job.place)
                ended = [pod for pod in left if pod.phase == "Succeeded"]
                state = "succeeded" if len(ended) == wanted else "failed"
                self.jobs[job.name] = replace(job, state=state)  # type: ignore[arg-type]
                if state == "succeeded":
                    self.done.append(job.place)

    # -- failures and successes ------------------------------------------------------------------------------------

    def running(self) -> list[ObservedPod]:
        """Return the pods that run on a responding node."""
        return [
            pod for pod in self.pods.values() if pod.phase == "Running" and pod.gone_by is None and self._answers(pod)
        ]

    def _answers(self, pod: ObservedPod) -> bool:
        return pod.node is None or self.nodes[pod.node] is None

    def succeed(self) -> None:
        for pod in self.running():
            output = '{"found": "fine", "best_epoch": 2, "model_version": "v1"}'
            self.pods[pod.name] = replace(pod, phase="Succeeded", exit_code=0, output=output, finished=self.now)

    def fail(self, pod: ObservedPod, code: int, ended: str = "Error") -> None:
        self.pods[pod.name] = replace(
            pod, phase="Failed", exit_code=code, ended=ended, output="last output", finished=self.now
        )

    def evict(self, pod: ObservedPod) -> None:
        self.pods.pop(pod.name)

    def lose(self, node: str) -> None:
        self.nodes[node] = self.nodes[node] or self.now

    def recover(self, node: str) -> None:
        """Let the node's kubelet respond again: it ends deleted pods and continues with the others."""
        self.nodes[node] = None

    def active(self) -> list[str]:
        return [job.name for job in self.jobs.values() if job.state == "active"]


def _count_of(desired: Desired, place: Place) -> int:
    steps = desired.spec.steps
    many = {
        Step.FEEDBACK: steps.feedback.pods if steps.feedback else 1,
        Step.ROLLOUTS: steps.rollouts.pods,
        Step.PAIRS: steps.pairs.pods,
        Step.OPTIMISATION: steps.optimisation.pods,
        Step.EVALUATION: steps.evaluation.pods,
    }
    return many.get(place.step, 1)


def run_to(world: World, step: Step) -> None:
    """Let steps succeed until the pods of this one run."""
    for _ in range(60):
        world.settle()
        if world.status.step == step and world.running():
            return
        world.succeed()
        world.tick()
    raise AssertionError(f"{step} was never reached: {world.status}")


def reason(world: World, condition: str) -> str:
    return next(one.reason for one in world.status.conditions if one.type == condition and one.status == "True")


def message(world: World, condition: str) -> str:
    return next(one.message for one in world.status.conditions if one.type == condition)
