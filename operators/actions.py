"""What a reconciler decides, as values: which objects to make and remove, what to say, when to look again.

A reconciler is a pure function `reconcile(observed, desired, now)` that returns an Outcome; `operators.controller`
writes the status first and then does the actions. So every action must be one that a later round would decide again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Apply:
    """Make an object, or bring one of ours in line: server-side apply, over others' fields with `force` only."""

    manifest: dict[str, Any]
    force: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """Make an object unless it is there. What is there stays as it is: others may have changed it rightfully."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove an object and, in the background, all it owns. With `now` its pods are not given time to end: for pods of
    a node that is gone. `uid` guards against a successor of the same name."""

    api_version: str
    kind: str
    name: str
    uid: str
    now: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """Write annotations onto a pod that is there; one that has gone meanwhile is left alone."""

    name: str
    uid: str
    annotations: dict[str, str]


@dataclass(frozen=True, slots=True)
class Say:
    """An event on the object, for people: `kubectl describe` shows it."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


Action = Apply | Create | Delete | Note


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the API server said against a child. `for_good`: it would say so again."""

    message: str
    for_good: bool


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """The status to show, what to do, and after how many seconds to look again at the latest (None: when told)."""

    status: S
    actions: tuple[Action, ...] = ()
    events: tuple[Say, ...] = ()
    again_s: float | None = None
