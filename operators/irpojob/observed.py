"""What the operator sees of a job's children and of nodes, read out of Kubernetes' objects into small values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from operators.actions import Refusal
from operators.desired import DesiredState
from operators.irpojob.plan import Place, Step
from operators.resources.base import GROUP
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus

Desired = DesiredState[IRPOJobSpec, IRPOJobStatus]

JOB_LABEL = f"{GROUP}/irpojob"
EPOCH_LABEL = f"{GROUP}/epoch"
STEP_LABEL = f"{GROUP}/step"
ATTEMPT_LABEL = f"{GROUP}/attempt"


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A Kubernetes Job of ours. `suspended`: Kueue has not admitted it (yet, or any more)."""

    name: str
    uid: str
    place: Place
    attempt: int
    state: Literal["active", "succeeded", "failed"]
    message: str = ""
    suspended: bool = False
    ready: int = 0
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod of ours. `owner` is its Job's uid; `exit_code`, `ended` (Kubernetes' word) and `words` are those of its
    container that ended. `placed`: since when it has a node that has not said a word of it (None: it has, or has none);
    `gone_by`: when it should be gone, once it is being deleted."""

    name: str
    uid: str
    owner: str
    place: Place
    attempt: int
    phase: str
    created: datetime
    index: int = 0
    node: str | None = None
    placed: datetime | None = None
    gone_by: datetime | None = None
    exit_code: int | None = None
    ended: str = ""
    words: str = ""
    finished: datetime | None = None
    waiting: str = ""
    waiting_for: str = ""
    unschedulable: str = ""
    disrupted: str = ""

    @property
    def live(self) -> bool:
        """Whether it holds, or may come to hold, resources of a node."""
        return self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Observed:
    """Children of one job; since when nodes have not been Ready (None: they are); which are gone; and what the API
    server last said against one of the children, if it did."""

    jobs: tuple[SeenJob, ...] = ()
    pods: tuple[SeenPod, ...] = ()
    nodes: Mapping[str, datetime | None] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    refused: Refusal | None = None


def moment(text: str | None) -> datetime | None:
    """A Kubernetes timestamp."""
    return datetime.fromisoformat(text) if text else None


def owned_by(item: Mapping[str, Any], uid: str) -> bool:
    """Whether an object belongs to the one of that uid."""
    return any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences") or ())


def place_of(labels: Mapping[str, str]) -> tuple[Place, int]:
    """Step and attempt from a child's labels."""
    return Place(int(labels[EPOCH_LABEL]), Step(labels[STEP_LABEL])), int(labels[ATTEMPT_LABEL])


def seen_job(item: Mapping[str, Any]) -> SeenJob:
    """A Job out of the API's object."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    place, attempt = place_of(meta["labels"])
    held = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    state: Literal["active", "succeeded", "failed"] = "active"
    message = ""
    if "Complete" in held:
        state = "succeeded"
    elif "Failed" in held:
        state, message = "failed", f"{held['Failed'].get('reason', '')}: {held['Failed'].get('message', '')}"
    return SeenJob(
        name=meta["name"],
        uid=meta["uid"],
        place=place,
        attempt=attempt,
        state=state,
        message=message,
        suspended=bool(spec.get("suspend")),
        ready=int(status.get("ready") or 0) + int(status.get("succeeded") or 0),
        deleting="deletionTimestamp" in meta,
    )


def seen_pod(item: Mapping[str, Any]) -> SeenPod:
    """A pod out of the API's object."""
    meta, status = item["metadata"], item.get("status") or {}
    place, attempt = place_of(meta["labels"])
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled, target = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    bound = scheduled.get("status") == "True"
    container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
    state = container.get("state") or {}
    ended, waiting = state.get("terminated") or {}, state.get("waiting") or {}
    created = moment(meta["creationTimestamp"])
    assert created is not None
    return SeenPod(
        name=meta["name"],
        uid=meta["uid"],
        owner=next(one["uid"] for one in meta["ownerReferences"] if one["kind"] == "Job"),
        place=place,
        attempt=attempt,
        phase=status.get("phase", "Pending"),
        created=created,
        index=int((meta.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index") or 0),
        node=(item.get("spec") or {}).get("nodeName"),
        placed=None if container else moment(scheduled.get("lastTransitionTime")) if bound else None,
        gone_by=moment(meta.get("deletionTimestamp")),
        exit_code=ended.get("exitCode"),
        ended=ended.get("reason") or status.get("reason") or "",
        words=(ended.get("message") or status.get("message") or "").strip(),
        finished=moment(ended.get("finishedAt")),
        waiting=waiting.get("reason") or "",
        waiting_for=waiting.get("message") or "",
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        disrupted=target.get("message", "") or target.get("reason", "") if target.get("status") == "True" else "",
    )


def not_ready_since(node: Mapping[str, Any]) -> datetime | None:
    """Since when a node has not been Ready; None if it is, or has never said."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = next((one for one in conditions if one.get("type") == "Ready"), None)
    return None if ready is None or ready.get("status") == "True" else moment(ready.get("lastTransitionTime"))
