"""Why a step failed, and whether a restart can help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from operators.conditions import JobReason
from operators.irpojob.observe import Observed, ObservedJob, ObservedPod

EXIT_BAD_INPUT = 2
EXIT_GUARD = 3
EXIT_OUT_OF_MEMORY = 4
"""Exit codes of the console script (`cli.exits`)."""
FATAL = {JobReason.BAD_INPUT, JobReason.GUARD_FIRED, JobReason.IMAGE_UNAVAILABLE, JobReason.POD_UNSTARTABLE}
"""Reasons that fail the job at once, because a restart cannot fix them."""
STUCK_S = 300.0
"""How long an image pull or the creation of a container may fail before the job fails."""
LONGEST_OUTPUT = 1200
"""Characters of a container's termination message in a condition's message."""
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cause:
    """Reason and message of a failure, and the pod that shows it (None: the pod is gone)."""

    reason: JobReason
    message: str
    pod: ObservedPod | None = None


def is_lost(pod: ObservedPod, observed: Observed, node_loss_s: float, now: datetime) -> bool:
    """Return whether a pod no longer counts as running.

    Its node is gone or has been silent for `node_loss_s` seconds, or its deletion is overdue by as much.
    """
    if pod.gone_by is not None and (now - pod.gone_by).total_seconds() >= node_loss_s:
        return True
    if pod.node is None:
        return False
    if pod.node in observed.gone:
        return True
    since = observed.nodes.get(pod.node)
    return since is not None and (now - since).total_seconds() >= node_loss_s


def failure_of(job: ObservedJob, observed: Observed, node_loss_s: float, now: datetime) -> Cause | None:
    """Return why a Job cannot succeed any more, or None if it can."""
    pods = observed.pods_of(job)
    if job.state == "failed":
        return _first_cause(job, pods)
    for pod in pods:
        if pod.live and is_lost(pod, observed, node_loss_s, now):
            problem = "is gone" if pod.node in observed.gone else "does not answer"
            return Cause(JobReason.NODE_LOST, f"node {pod.node} of pod {pod.name} {problem}", pod)
    for pod in pods:
        if not pod.live or pod.reported or pod.placed is None:
            continue
        if (now - pod.placed).total_seconds() >= STUCK_S:
            return Cause(JobReason.NODE_LOST, f"node {pod.node} has not started pod {pod.name}", pod)
    return _stuck(pods, now)


def _first_cause(job: ObservedJob, pods: Sequence[ObservedPod]) -> Cause:
    """Return why a Job failed: the first cause among its pods, since the failure of one pod ends the others."""
    causes = [_cause(pod) for pod in pods if pod.exit_code not in (None, 0) or (pod.phase == "Failed" and pod.ended)]
    if not causes:
        return Cause(JobReason.POD_LOST, f"a pod of {job.name} was deleted before it ended")
    order = [JobReason.BAD_INPUT, JobReason.GUARD_FIRED, JobReason.OUT_OF_MEMORY, JobReason.POD_LOST]

    def rank(cause: Cause) -> tuple[int, datetime]:
        assert cause.pod is not None
        place = order.index(cause.reason) if cause.reason in order else len(order)
        return place, cause.pod.finished or _NEVER

    return min(causes, key=rank)


def _cause(pod: ObservedPod) -> Cause:
    output = pod.output[-LONGEST_OUTPUT:]
    if pod.disrupted or pod.ended in ("Evicted", "Preempting", "NodeShutdown", "Terminated"):
        return Cause(JobReason.POD_LOST, f"pod {pod.name} was removed: {pod.disrupted or pod.output}", pod)
    if pod.ended == "OOMKilled" or (pod.exit_code == EXIT_OUT_OF_MEMORY and not pod.init_container):
        where = "its container's memory limit" if pod.ended == "OOMKilled" else "its device's memory"
        return Cause(JobReason.OUT_OF_MEMORY, f"pod {pod.name} ran out of {where}{': ' if output else ''}{output}", pod)
    if pod.init_container:
        message = f"init container {pod.init_container} of pod {pod.name} ended with exit code {pod.exit_code}"
        return Cause(JobReason.POD_FAILED, f"{message}{': ' if output else ''}{output}", pod)
    if pod.exit_code == EXIT_BAD_INPUT:
        return Cause(JobReason.BAD_INPUT, output or f"pod {pod.name} ended with exit code 2 and no message", pod)
    if pod.exit_code == EXIT_GUARD:
        return Cause(JobReason.GUARD_FIRED, output or f"pod {pod.name} ended with exit code 3 and no message", pod)
    code = f"exit code {pod.exit_code}" if pod.exit_code is not None else pod.ended
    return Cause(JobReason.POD_FAILED, f"pod {pod.name} ended with {code}{': ' if output else ''}{output}", pod)


def start_problem(pods: Sequence[ObservedPod]) -> Cause | None:
    """Return the first pod whose image or container cannot be created at present; it may still recover."""
    return next((_start_cause(pod) for pod in pods if _cannot_start(pod)), None)


def _stuck(pods: Sequence[ObservedPod], now: datetime) -> Cause | None:
    """Return the first pod that has been unable to start for STUCK_S, or that can never start."""
    for pod in filter(_cannot_start, pods):
        patience = 0.0 if pod.waiting in ("InvalidImageName", "ErrImageNeverPull") else STUCK_S
        if (now - pod.created).total_seconds() >= patience:
            return _start_cause(pod)
    return None


def _cannot_start(pod: ObservedPod) -> bool:
    return pod.live and pod.waiting not in ("", "ContainerCreating", "PodInitializing")


def _start_cause(pod: ObservedPod) -> Cause:
    reason = JobReason.IMAGE_UNAVAILABLE if "Image" in pod.waiting else JobReason.POD_UNSTARTABLE
    return Cause(reason, f"pod {pod.name} cannot start: {pod.waiting}: {pod.waiting_for}", pod)
