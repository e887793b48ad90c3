"""Why a step failed, and whether a new start may heal it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from operators.conditions import JobReason
from operators.irpojob.observed import SeenJob, SeenPod

EXIT_BAD_INPUT = 2
EXIT_GUARD = 3
EXIT_OUT_OF_MEMORY = 4
"""Exit statuses of the console script, by which it says what kind of end it was (`cli.main`)."""
HOPELESS = {JobReason.BAD_INPUT, JobReason.GUARD_FIRED}
"""Reasons that no new start mends."""
STUCK_S = 300.0
"""For how long an image may fail to be pulled, or a container to be made, before the job is given up."""
WORDS = 1200
"""Characters of a container's last words in a message."""
_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cause:
    """Reason and message of a failure, and the pod that shows it (none: it is gone)."""

    reason: JobReason
    message: str
    pod: SeenPod | None = None


def cause_of(job: SeenJob, pods: Sequence[SeenPod]) -> Cause:
    """Why a Job failed, by its pods. Of a group the first cause counts: one pod's end ends the others, too."""
    found = [_cause(pod) for pod in pods if pod.exit_code not in (None, 0) or (pod.phase == "Failed" and pod.ended)]
    if not found:
        return Cause(JobReason.POD_LOST, f"a pod of {job.name} was deleted before its end")
    order = [JobReason.BAD_INPUT, JobReason.GUARD_FIRED, JobReason.OUT_OF_MEMORY, JobReason.POD_LOST]

    def rank(cause: Cause) -> tuple[int, datetime]:
        assert cause.pod is not None
        place = order.index(cause.reason) if cause.reason in order else len(order)
        return place, cause.pod.finished or _EVER

    return min(found, key=rank)


def _cause(pod: SeenPod) -> Cause:
    words = pod.words[-WORDS:]
    if pod.disrupted or pod.ended in ("Evicted", "Preempting", "NodeShutdown", "Terminated"):
        return Cause(JobReason.POD_LOST, f"pod {pod.name} was taken away: {pod.disrupted or pod.words}", pod)
    if pod.ended == "OOMKilled" or pod.exit_code == EXIT_OUT_OF_MEMORY:
        where = "its container's memory limit" if pod.ended == "OOMKilled" else "its device's memory"
        return Cause(JobReason.OUT_OF_MEMORY, f"pod {pod.name} ran out of {where}{': ' if words else ''}{words}", pod)
    if pod.exit_code == EXIT_BAD_INPUT:
        return Cause(JobReason.BAD_INPUT, words or f"pod {pod.name} ended with exit code 2 and no words", pod)
    if pod.exit_code == EXIT_GUARD:
        return Cause(JobReason.GUARD_FIRED, words or f"pod {pod.name} ended with exit code 3 and no words", pod)
    code = f"exit code {pod.exit_code}" if pod.exit_code is not None else pod.ended
    return Cause(JobReason.POD_FAILED, f"pod {pod.name} ended with {code}{': ' if words else ''}{words}", pod)


def held_up(pods: Sequence[SeenPod]) -> Cause | None:
    """A pod that cannot start as it is: its image or its container cannot be made. It may yet heal by itself."""
    return next((_held(pod) for pod in pods if _cannot_start(pod)), None)


def stuck(pods: Sequence[SeenPod], now: datetime) -> Cause | None:
    """One of which that has been so for too long, or that no time mends."""
    for pod in filter(_cannot_start, pods):
        patience = 0.0 if pod.waiting in ("InvalidImageName", "ErrImageNeverPull") else STUCK_S
        if (now - pod.created).total_seconds() >= patience:
            return _held(pod)
    return None


def _cannot_start(pod: SeenPod) -> bool:
    return pod.live and pod.waiting not in ("", "ContainerCreating", "PodInitializing")


def _held(pod: SeenPod) -> Cause:
    reason = JobReason.IMAGE_UNAVAILABLE if "Image" in pod.waiting else JobReason.POD_UNSTARTABLE
    return Cause(reason, f"pod {pod.name} cannot start: {pod.waiting}: {pod.waiting_for}", pod)
