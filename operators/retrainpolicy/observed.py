"""What the operator sees of a policy: the service, its IRPOJobs, and the Job that looks at the log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from operators.actions import Refusal
from operators.desired import DesiredState
from operators.resources.base import GROUP
from operators.resources.retrainpolicy import RetrainPolicySpec, RetrainPolicyStatus

POLICY_LABEL = f"{GROUP}/retrainpolicy"
Desired = DesiredState[RetrainPolicySpec, RetrainPolicyStatus]


@dataclass(frozen=True, slots=True)
class SeenRun:
    """An IRPOJob of the policy. `phase` is its status'."""

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
        """Whether nothing of it will run any more."""
        return self.phase in ("Complete", "Failed")


@dataclass(frozen=True, slots=True)
class SeenLook:
    """A Job that looks at the log. `words` are its container's last."""

    name: str
    uid: str
    state: Literal["active", "succeeded", "failed"] = "active"
    words: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """`stable`: the service's stable version, None where it has none; `service`: whether there is such a service."""

    service: bool = False
    stable: str | None = None
    runs: tuple[SeenRun, ...] = ()
    looks: tuple[SeenLook, ...] = ()
    refused: Refusal | None = None
