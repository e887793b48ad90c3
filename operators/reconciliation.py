"""The result of a reconcile pass as values: the new status, the actions to take, the events, when to reconcile again.

A reconciler is a pure function `reconcile(observed, desired, now)` that returns a Reconciliation. The controller writes
the status first and then takes the actions, so each action must be one that a later pass would decide again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from operators.objects import DesiredState
from operators.resources.base import Condition, Manifest, Status

S = TypeVar("S", bound=Status)


@dataclass(frozen=True, slots=True)
class Apply:
    """Create or update an object by server-side apply; `force` takes over fields of other managers."""

    manifest: Manifest
    force: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object if it does not exist; an existing one is left unchanged, since others may have edited it."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object and, in the background, what it owns.

    `uid` protects a newer object of the same name. `now` skips the grace period, for pods on a node that is gone.
    """

    api_version: str
    kind: str
    name: str
    uid: str
    now: bool = False


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set annotations on a pod; nothing happens if the pod is gone."""

    name: str
    uid: str
    annotations: dict[str, str]


Action = Apply | Create | Delete | Annotate


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event on the reconciled object, shown by `kubectl describe`."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The API server's refusal of an owned object. `permanent`: a retry would be refused as well."""

    message: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Reconciliation(Generic[S]):
    """The status to write, the actions and events, and the seconds until the next pass (None: at the next event)."""

    status: S
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None


class Draft(Generic[S]):
    """A Reconciliation under construction: collects changes of the status, actions and events."""

    def __init__(self, desired: DesiredState[Any, S], now: datetime, requeue_after_s: float) -> None:
        self.now, self.generation = now, desired.generation
        self.status = desired.status.model_copy(update={"observed_generation": desired.generation})
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.requeue_after_s = requeue_after_s

    def update(self, **changes: object) -> None:
        """Set fields of the status."""
        self.status = self.status.model_copy(update=changes)

    def emit(self, reason: str, message: str, *, warn: bool = False) -> None:
        """Add an event."""
        self.events.append(Event(reason, message, "Warning" if warn else "Normal"))

    def requeue_within(self, seconds: float) -> None:
        """Bring the next pass forward to at most this many seconds from now, but not below half a second."""
        self.requeue_after_s = min(self.requeue_after_s, max(0.5, seconds))

    def condition(self, type_: StrEnum) -> Condition | None:
        """Return the condition of this type, or None if it has not been set yet."""
        return next((one for one in self.status.conditions if one.type == type_), None)

    def set_condition(self, type_: StrEnum, holds: bool, reason: str, message: str) -> None:
        """Add or replace a condition; its transition time changes only when its status does."""
        status = "True" if holds else "False"
        before = self.condition(type_)
        since = before.last_transition_time if before is not None and before.status == status else self.now
        condition = Condition(
            type=type_,
            status=status,
            reason=reason,
            message=message[:4096],
            last_transition_time=since,
            observed_generation=self.generation,
        )
        kept = self.status.conditions
        if before is None:
            self.update(conditions=[*kept, condition])
        else:
            self.update(conditions=[condition if one.type == type_ else one for one in kept])

    def finish(self) -> Reconciliation[S]:
        """Return what was collected."""
        return Reconciliation(self.status, tuple(self.actions), tuple(self.events), self.requeue_after_s)
