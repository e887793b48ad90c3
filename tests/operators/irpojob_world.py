"""A small model of Kubernetes for the reconciler's properties: Jobs, pods and nodes, and what may befall them.

It keeps to what the Job controller does: all pods at once, one that fails fails the Job, which then ends the others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from operators.actions import Apply, Create, Delete, Outcome
from operators.irpojob.observed import Desired, Observed, SeenJob, SeenPod, place_of
from operators.irpojob.plan import Place, Step
from operators.irpojob.reconcile import reconcile
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus

BEGIN = datetime(2026, 11, 25, 12, tzinfo=UTC)
GRACE = timedelta(seconds=30)


def spec_of(**changes: Any) -> IRPOJobSpec:
    """A specification of two epochs with two rollout pods and two optimisation pods."""
    made: dict[str, Any] = {
        "config": {"epochs": 2},
        "image": "llm-auction:1",
        "storage": {"url": "s3://bucket/auction"},
        "steps": {"rollouts": {"pods": 2}, "optimisation": {"pods": 2}},
        **changes,
    }
    return IRPOJobSpec.model_validate(made)


@dataclass
class World:
    """One job and what there is of it. `done` are the steps that were finished, in order, `ran` the names ever made."""

    desired: Desired
    now: datetime = BEGIN
    jobs: dict[str, SeenJob] = field(default_factory=dict)
    pods: dict[str, SeenPod] = field(default_factory=dict)
    nodes: dict[str, datetime | None] = field(default_factory=lambda: {"n0": None, "n1": None})
    deleted: bool = False
    done: list[Place] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
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
        return Observed(tuple(self.jobs.values()), tuple(self.pods.values()), dict(self.nodes))

    def look(self, acts: int | None = None) -> Outcome[IRPOJobStatus]:
        """A round; an operator that dies in it has written the status and done the first `acts` actions."""
        outcome = reconcile(self.observed(), self.desired, self.now)
        self.desired = replace(self.desired, status=outcome.status)
        self.said += [str(one.reason) for one in outcome.events]
        for action in outcome.actions[:acts]:
            self._do(action)
        return outcome

    def settle(self, rounds: int = 12) -> None:
        """Rounds until one changes nothing."""
        for _ in range(rounds):
            before = (self.desired, dict(self.jobs), dict(self.pods))
            self.look()
            if before == (self.desired, self.jobs, self.pods):
                return

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # -- what Kubernetes does --------------------------------------------------------------------------------------

    def _do(self, action: Apply | Create | Delete) -> None:
        match action:
            case Create(manifest) if manifest["kind"] == "Job" and manifest["metadata"]["name"] not in self.jobs:
                self._make(manifest)
            case Delete(_, "Job", name, uid) if name in self.jobs and self.jobs[name].uid == uid:
                self.jobs[name] = replace(self.jobs[name], deleting=True)
            case Delete(_, "Pod", name, uid, now) if name in self.pods and self.pods[name].uid == uid:
                assert now
                del self.pods[name]
            case Delete(_, "IRPOJob", _, _):
                self.deleted = True

    def _make(self, manifest: dict[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        live = [pod.name for pod in self.pods.values() if pod.live and self._answers(pod)]
        assert not live, f"{name} is made beside {live}"
        assert not [job.name for job in self.jobs.values() if job.state == "active"], f"{name} is made beside a Job"
        self.ran.append(name)
        place, attempt = place_of(manifest["metadata"]["labels"])
        owner = f"j{next(self._uids)}"
        self.jobs[name] = SeenJob(name, owner, place, attempt, "active")
        ready = [node for node, since in self.nodes.items() if since is None]
        for index in range(manifest["spec"]["completions"]):
            node, phase = (ready[index % len(ready)], "Running") if ready else (None, "Pending")
            pod = f"{name}-{index}"
            self.pods[pod] = SeenPod(pod, f"p{next(self._uids)}", owner, place, attempt, phase, self.now, index, node)
        self._count(name)

    def _pods_of(self, job: SeenJob) -> list[SeenPod]:
        return [pod for pod in self.pods.values() if pod.owner == job.uid]

    def _count(self, name: str) -> None:
        job = self.jobs[name]
        running = [pod for pod in self._pods_of(job) if pod.phase in ("Running", "Succeeded")]
        self.jobs[name] = replace(job, ready=len(running))

    def tick(self) -> None:
        """The scheduler, the Job controller, kubelets of nodes that answer and the garbage collector catch up."""
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

    # -- what may befall -------------------------------------------------------------------------------------------

    def running(self) -> list[SeenPod]:
        """Pods that run on a node that answers."""
        return [
            pod for pod in self.pods.values() if pod.phase == "Running" and pod.gone_by is None and self._answers(pod)
        ]

    def _answers(self, pod: SeenPod) -> bool:
        return pod.node is None or self.nodes[pod.node] is None

    def succeed(self) -> None:
        for pod in self.running():
            words = '{"found": "fine", "best_epoch": 2, "model_version": "v1"}'
            self.pods[pod.name] = replace(pod, phase="Succeeded", exit_code=0, words=words, finished=self.now)

    def fail(self, pod: SeenPod, code: int, ended: str = "Error") -> None:
        self.pods[pod.name] = replace(
            pod, phase="Failed", exit_code=code, ended=ended, words="last words", finished=self.now
        )

    def evict(self, pod: SeenPod) -> None:
        self.pods.pop(pod.name)

    def lose(self, node: str) -> None:
        self.nodes[node] = self.nodes[node] or self.now

    def recover(self, node: str) -> None:
        """The node's kubelet is back: it ends what was deleted meanwhile, and goes on with the rest."""
        self.nodes[node] = None

    def active(self) -> list[str]:
        return [job.name for job in self.jobs.values() if job.state == "active"]


def _count_of(desired: Desired, place: Place) -> int:
    many = {Step.ROLLOUTS: desired.spec.steps.rollouts.pods, Step.OPTIMISATION: desired.spec.steps.optimisation.pods}
    return many.get(place.step, 1)
