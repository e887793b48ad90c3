"""The observed state of an IRPOJob: its Jobs and pods, and the readiness of their nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from operators.irpojob.plan import Place, Step
from operators.objects import DesiredState, JobState, Reader, job_state, owned_by, parse_moment
from operators.reconciliation import Refusal
from operators.resources.base import GROUP, Manifest
from operators.resources.irpojob import IRPOJobSpec, IRPOJobStatus

Desired = DesiredState[IRPOJobSpec, IRPOJobStatus]

JOB_LABEL = f"{GROUP}/irpojob"
EPOCH_LABEL = f"{GROUP}/epoch"
STEP_LABEL = f"{GROUP}/step"
ATTEMPT_LABEL = f"{GROUP}/attempt"
KUEUE = "kueue.x-k8s.io"
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """A Kubernetes Job of the IRPOJob. `suspended`: Kueue has not admitted it, or has revoked the admission."""

    name: str
    uid: str
    place: Place
    attempt: int
    state: JobState
    message: str = ""
    suspended: bool = False
    ready: int = 0
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod of the IRPOJob.

    - `owner`: uid of its Job;
    - `placed`: when it was bound to its node, None before; `reported`: whether its node's kubelet knows it;
    - `gone_by`: end of its grace period, once it is being deleted;
    - `exit_code`, `ended` (Kubernetes' reason), `output` (termination message) and `finished`: of its ended container;
    - `init_container`: name of that container if it is one that keeps the training from beginning, else "".
    """

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
    reported: bool = True
    gone_by: datetime | None = None
    exit_code: int | None = None
    ended: str = ""
    output: str = ""
    finished: datetime | None = None
    waiting: str = ""
    waiting_for: str = ""
    unschedulable: str = ""
    disrupted: str = ""
    init_container: str = ""

    @property
    def live(self) -> bool:
        """Whether it uses resources of a node, or may do so later."""
        return self.phase not in ("Succeeded", "Failed")

    @property
    def outcome(self) -> Manifest:
        """The JSON object that the training left for the operator; {} for any other output."""
        try:
            outcome = json.loads(self.output)
        except ValueError:
            return {}
        return outcome if isinstance(outcome, dict) else {}


@dataclass(frozen=True, slots=True)
class Observed:
    """Jobs and pods of one IRPOJob, its pods' nodes, and the API server's last refusal of one of its objects.

    `nodes`: since when each node has not been Ready, None if it is; `gone`: nodes that no longer exist; `queues`:
    whether the job's queue, if it has one, is served (Kueue is installed).
    """

    jobs: tuple[ObservedJob, ...] = ()
    pods: tuple[ObservedPod, ...] = ()
    nodes: Mapping[str, datetime | None] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    refused: Refusal | None = None
    queues: bool = True

    def pods_of(self, job: ObservedJob) -> list[ObservedPod]:
        """Return a Job's pods, without those of an earlier Job of the same name that are still terminating."""
        return [pod for pod in self.pods if pod.owner == job.uid]


def observe(api: Reader, desired: Desired, refused: Refusal | None) -> Observed:
    """Read the Jobs and pods of an IRPOJob and the nodes of its pods; nothing for one that is being deleted."""
    if desired.deleting:
        return Observed()
    labels = f"{JOB_LABEL}={desired.name}"
    items = api.list("batch/v1", "Job", desired.namespace, labels)
    jobs = tuple(observed_job(item) for item in items if owned_by(item, desired.uid))
    # Include pods whose Job is gone: they may still run, and no new pod may start beside them.
    items = api.list("v1", "Pod", desired.namespace, labels)
    pods = tuple(observed_pod(item) for item in items if _belongs_to_a_job(item))
    nodes: dict[str, datetime | None] = {}
    gone = set()
    for name in {pod.node for pod in pods if pod.live and pod.node is not None}:
        if (node := api.get("v1", "Node", None, name)) is None:
            gone.add(name)
        else:
            nodes[name] = not_ready_since(node)
    queues = desired.spec.queue_name is None or api.serves(KUEUE)
    return Observed(jobs, pods, nodes, frozenset(gone), refused, queues)


def _belongs_to_a_job(item: Manifest) -> bool:
    """Return False for a pod that carries the labels but was not created by a Job."""
    return any(owner.get("kind") == "Job" for owner in item["metadata"].get("ownerReferences") or ())


def place_of(labels: Mapping[str, str]) -> tuple[Place, int]:
    """Parse step and attempt from an object's labels."""
    return Place(int(labels[EPOCH_LABEL]), Step(labels[STEP_LABEL])), int(labels[ATTEMPT_LABEL])


def observed_job(item: Manifest) -> ObservedJob:
    """Parse a Kubernetes Job."""
    meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    place, attempt = place_of(meta["labels"])
    state, condition = job_state(item)
    return ObservedJob(
        name=meta["name"],
        uid=meta["uid"],
        place=place,
        attempt=attempt,
        state=state,
        message=f"{condition.get('reason', '')}: {condition.get('message', '')}" if state == "failed" else "",
        suspended=bool(spec.get("suspend")),
        ready=int(status.get("ready") or 0) + int(status.get("succeeded") or 0),
        deleting="deletionTimestamp" in meta,
    )


def observed_pod(item: Manifest) -> ObservedPod:
    """Parse a pod."""
    meta, status = item["metadata"], item.get("status") or {}
    place, attempt = place_of(meta["labels"])
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    scheduled, target = conditions.get("PodScheduled", {}), conditions.get("DisruptionTarget", {})
    container: Manifest = next(iter(status.get("containerStatuses") or ()), {})
    shown = container
    if not _has_begun(container):
        shown = next(filter(_stops_the_pod, status.get("initContainerStatuses") or ()), container)
    state = shown.get("state") or {}
    ended, waiting = state.get("terminated") or {}, state.get("waiting") or {}
    created = parse_moment(meta["creationTimestamp"])
    assert created is not None
    return ObservedPod(
        name=meta["name"],
        uid=meta["uid"],
        owner=next(one["uid"] for one in meta["ownerReferences"] if one["kind"] == "Job"),
        place=place,
        attempt=attempt,
        phase=status.get("phase", "Pending"),
        created=created,
        index=int((meta.get("annotations") or {}).get(INDEX_ANNOTATION) or 0),
        node=(item.get("spec") or {}).get("nodeName"),
        placed=parse_moment(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        reported=bool(container),
        gone_by=parse_moment(meta.get("deletionTimestamp")),
        exit_code=ended.get("exitCode"),
        ended=ended.get("reason") or status.get("reason") or "",
        output=(ended.get("message") or status.get("message") or "").strip(),
        finished=parse_moment(ended.get("finishedAt")),
        waiting=waiting.get("reason") or "",
        waiting_for=waiting.get("message") or "",
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        init_container=shown["name"] if shown is not container else "",
        disrupted=target.get("message", "") or target.get("reason", "") if target.get("status") == "True" else "",
    )


def _has_begun(status: Manifest) -> bool:
    """Return whether a container runs or ended. From then on the training alone decides on its pod.

    Sidecars are init containers too: they may crash beside the training, and end with an error when they are stopped
    after it.
    """
    state = status.get("state") or {}
    return "running" in state or "terminated" in state


def _stops_the_pod(status: Manifest) -> bool:
    """Return whether an init container failed or cannot start, so that the training does not begin."""
    state = status.get("state") or {}
    waiting = (state.get("waiting") or {}).get("reason")
    return bool((state.get("terminated") or {}).get("exitCode")) or waiting not in (None, "PodInitializing")


def not_ready_since(node: Manifest) -> datetime | None:
    """Return since when a node has not been Ready; None if it is Ready or has not reported yet."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = next((one for one in conditions if one.get("type") == "Ready"), None)
    return None if ready is None or ready.get("status") == "True" else parse_moment(ready.get("lastTransitionTime"))
