"""Reads what the reconciler of RetrainPolicy needs: the policy, its service, its IRPOJobs and the Job that looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from operators.actions import Outcome, Refusal
from operators.controller import Kind
from operators.desired import desired_state
from operators.kube import KubeApi
from operators.resources.base import API_VERSION
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus
from operators.retrainpolicy.observed import POLICY_LABEL, Desired, Observed, SeenLook, SeenRun
from operators.retrainpolicy.reconcile import reconcile


@dataclass(frozen=True)
class Sight:
    """Where what concerns a policy is seen."""

    api: KubeApi

    def decide(self, desired: Desired, refused: Refusal | None, now: datetime) -> Outcome[RetrainPolicyStatus]:
        """One round of the reconciler on what is there now."""
        if desired.deleting:
            return Outcome(desired.status)
        return reconcile(self.observe(desired, refused), desired, now)

    def observe(self, desired: Desired, refused: Refusal | None) -> Observed:
        """The service and the children of a policy."""
        labels, place = f"{POLICY_LABEL}={desired.name}", desired.namespace
        service = self.api.get(API_VERSION, "AuctionService", place, desired.spec.service.name)
        stable = ((service or {}).get("status") or {}).get("stable") or {}
        runs = [i for i in self.api.list(API_VERSION, "IRPOJob", place, labels) if _owned(i, desired.uid)]
        jobs = [i for i in self.api.list("batch/v1", "Job", place, labels) if _owned(i, desired.uid)]
        words = {}
        if jobs:
            for pod in self.api.list("v1", "Pod", place, labels):
                words[(pod["metadata"].get("labels") or {}).get("job-name", "")] = _words(pod)
        looks = tuple(_look(item, words.get(item["metadata"]["name"], "")) for item in jobs)
        return Observed(service is not None, stable.get("name"), tuple(map(_run, runs)), looks, refused)


def _owned(item: Mapping[str, Any], uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences") or ())


def _run(item: Mapping[str, Any]) -> SeenRun:
    meta, status = item["metadata"], item.get("status") or {}
    failed: Mapping[str, Any] = next(
        (c for c in status.get("conditions") or () if c["type"] == "Failed" and c["status"] == "True"), {}
    )
    return SeenRun(
        name=meta["name"],
        uid=meta["uid"],
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        phase=status.get("phase") or "Pending",
        message=failed.get("message", ""),
        best_epoch=status.get("bestEpoch"),
        model=status.get("modelVersion"),
        digest=status.get("modelDigest"),
        refused_by=status.get("refusedBy") or "",
    )


def _look(item: Mapping[str, Any], words: str) -> SeenLook:
    held = {c["type"]: c for c in (item.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    state: Literal["active", "succeeded", "failed"] = "active"
    if "Complete" in held:
        state = "succeeded"
    elif "Failed" in held:
        state, words = "failed", words or str(held["Failed"].get("message", ""))
    return SeenLook(item["metadata"]["name"], item["metadata"]["uid"], state, words)


def _words(pod: Mapping[str, Any]) -> str:
    """The last words of a pod's container."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("message"):
            return str(ended["message"]).strip()
    return ""


def desired_of(item: Mapping[str, Any]) -> Desired:
    """A policy out of the API's object."""
    return desired_state(item, RetrainPolicySpec, RetrainPolicyStatus)


def retrainpolicy_kind(sight: Sight) -> Kind[Desired, RetrainPolicyStatus]:
    """The kind, for a controller."""
    return Kind("RetrainPolicy", desired_of, sight.decide, lambda status: status.phase)
