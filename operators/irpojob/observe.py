"""Reads what the reconciler of IRPOJob needs: the job, its Jobs and pods, and whether their nodes are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from operators.actions import Outcome, Refusal
from operators.controller import Kind
from operators.desired import desired_state
from operators.irpojob.observed import JOB_LABEL, Desired, Observed, not_ready_since, owned_by, seen_job, seen_pod
from operators.irpojob.reconcile import reconcile
from operators.kube import KubeApi
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus


@dataclass(frozen=True)
class Sight:
    """Where the children of a job are seen. `nodes`: since when each node that the watch told is not Ready, None: it
    is; those that it has not told (yet) are asked for."""

    api: KubeApi
    nodes: Callable[[], Mapping[str, datetime | None]]

    def decide(self, desired: Desired, refused: Refusal | None, now: datetime) -> Outcome[IRPOJobStatus]:
        """One round of the reconciler on what is there now."""
        if desired.deleting:
            return Outcome(desired.status)
        return reconcile(self.observe(desired, refused), desired, now)

    def observe(self, desired: Desired, refused: Refusal | None) -> Observed:
        """The children of a job and the nodes of its pods."""
        labels = f"{JOB_LABEL}={desired.name}"
        found = self.api.list("batch/v1", "Job", desired.namespace, labels)
        jobs = tuple(seen_job(item) for item in found if owned_by(item, desired.uid))
        # pods of Jobs that are gone count as well: they may still run, and nothing may start beside them
        items = self.api.list("v1", "Pod", desired.namespace, labels)
        pods = tuple(seen_pod(item) for item in items if _of_a_job(item))
        nodes: dict[str, datetime | None] = {}
        gone = set()
        known = self.nodes()
        for name in {pod.node for pod in pods if pod.live and pod.node is not None}:
            if name in known:
                nodes[name] = known[name]
            elif (node := self.api.get("v1", "Node", None, name)) is None:
                gone.add(name)
            else:
                nodes[name] = not_ready_since(node)
        return Observed(jobs, pods, nodes, frozenset(gone), refused)


def _of_a_job(item: Mapping[str, Any]) -> bool:
    """Not a pod that somebody made with a copy of our labels."""
    return any(owner.get("kind") == "Job" for owner in item["metadata"].get("ownerReferences") or ())


def desired_of(item: Mapping[str, Any]) -> Desired:
    """A job out of the API's object."""
    return desired_state(item, IRPOJobSpec, IRPOJobStatus)


def irpojob_kind(sight: Sight) -> Kind[Desired, IRPOJobStatus]:
    """The kind, for a controller."""
    return Kind("IRPOJob", desired_of, sight.decide, lambda status: status.phase, ("Complete", "Failed"))
