"""The pods of a step are useful together only: what keeps a step from getting all of its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from operators.irpojob.observe import KUEUE, ObservedPod

QUEUE_S = 60.0
"""Time between two passes over a job that waits for Kueue to be installed."""
GANG_PAUSE_S = 30
"""Least time for which a step leaves nodes to others after it held too few of them."""


@dataclass(frozen=True, slots=True)
class PartialGang:
    """A step that holds nodes for some of its pods, the first `since` a time, while `waiting` finds none."""

    since: datetime
    waiting: ObservedPod


def partial_gang(pods: Sequence[ObservedPod], count: int) -> PartialGang | None:
    """Return how a step of `count` pods holds nodes for a part of them; None if it does not."""
    placed = [pod for pod in pods if pod.live and pod.node is not None]
    waiting = next((pod for pod in pods if pod.live and pod.unschedulable), None)
    if waiting is None or not 0 < len(placed) < count:
        return None
    return PartialGang(min(pod.placed or pod.created for pod in placed), waiting)


def without_kueue(queue: str | None) -> str:
    """Return the message for a job with a queue that nothing admits it to."""
    remedy = f"install Kueue (the API server has no {KUEUE}), or create the job without queueName"
    return f"its Jobs would wait for queue {queue} for ever: {remedy}"
