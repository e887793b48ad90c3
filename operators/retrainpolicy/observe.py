"""The observed state of a RetrainPolicy: its AuctionService, its IRPOJobs and its look Jobs.

A look is a Job that runs `llm-auction due` on the log of judged interactions (`spec.look`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from operators.objects import DesiredState, JobState, Reader, job_state, owned_by, true_conditions
from operators.reconciliation import Refusal
from operators.resources.base import API_VERSION, GROUP, Manifest
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus

POLICY_LABEL = f"{GROUP}/retrainpolicy"
Desired = DesiredState[RetrainPolicySpec, RetrainPolicyStatus]


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """An IRPOJob of the policy. `phase` is its status' phase."""

    name: str
    uid: str
    created: datetime
    phase: str = "Pending"
    message: str = ""
    best_epoch: int | None = None
    model: str | None = None
    digest: str | None = None
    refused_by: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is complete or has failed."""
        return self.phase in ("Complete", "Failed")


@dataclass(frozen=True, slots=True)
class ObservedLook:
    """A look Job. `output` is its container's termination message, or else the reason of its failure."""

    name: str
    uid: str
    state: JobState = "active"
    output: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """`service`: whether the AuctionService exists; `stable`: its stable version, None if it has none."""

    service: bool = False
    stable: str | None = None
    runs: tuple[ObservedRun, ...] = ()
    looks: tuple[ObservedLook, ...] = ()
    refused: Refusal | None = None


def observe(api: Reader, desired: Desired, refused: Refusal | None) -> Observed:
    """Read the service and the owned objects of a policy; nothing for one that is being deleted."""
    if desired.deleting:
        return Observed()
    labels, namespace = f"{POLICY_LABEL}={desired.name}", desired.namespace
    service = api.get(API_VERSION, "AuctionService", namespace, desired.spec.service.name)
    stable = ((service or {}).get("status") or {}).get("stable") or {}
    runs = [i for i in api.list(API_VERSION, "IRPOJob", namespace, labels) if owned_by(i, desired.uid)]
    jobs = [i for i in api.list("batch/v1", "Job", namespace, labels) if owned_by(i, desired.uid)]
    outputs = {}
    if jobs:
        for pod in api.list("v1", "Pod", namespace, labels):
            outputs[(pod["metadata"].get("labels") or {}).get("job-name", "")] = _termination_message(pod)
    looks = tuple(_look(item, outputs.get(item["metadata"]["name"], "")) for item in jobs)
    return Observed(service is not None, stable.get("name"), tuple(map(_run, runs)), looks, refused)


def _run(item: Manifest) -> ObservedRun:
    meta, status = item["metadata"], item.get("status") or {}
    return ObservedRun(
        name=meta["name"],
        uid=meta["uid"],
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        phase=status.get("phase") or "Pending",
        message=true_conditions(item).get("Failed", {}).get("message", ""),
        best_epoch=status.get("bestEpoch"),
        model=status.get("modelVersion"),
        digest=status.get("modelDigest"),
        refused_by=status.get("refusedBy") or "",
    )


def _look(item: Manifest, output: str) -> ObservedLook:
    state, condition = job_state(item)
    if state == "failed":
        output = output or str(condition.get("message", ""))
    return ObservedLook(item["metadata"]["name"], item["metadata"]["uid"], state, output)


def _termination_message(pod: Manifest) -> str:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("message"):
            return str(ended["message"]).strip()
    return ""
