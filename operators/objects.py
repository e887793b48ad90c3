"""Kubernetes objects as reconcilers read and write them: custom resources, owner references, Job states.

Pure functions over JSON; `Reader` is the only access to the API server that an observer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, Protocol, TypeVar

from operators.resources.base import API_VERSION, ApiModel, Manifest, Status

Spec = TypeVar("Spec", bound=ApiModel)
S = TypeVar("S", bound=Status)

JobState = Literal["active", "succeeded", "failed"]
MANAGER = "llm-auction-operator"
"""The operator's field manager, as the API server records it in `managedFields`."""


class Reader(Protocol):
    """Read access to the API server (`operators.kube.KubeApi`)."""

    def get(self, version: str, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """Return an object, or None if it does not exist."""

    def list(self, version: str, kind: str, namespace: str | None, labels: str) -> list[Manifest]:
        """Return all objects that match a label selector."""

    def serves(self, group: str) -> bool:
        """Return whether the API server serves an API group (`kueue.x-k8s.io`)."""


@dataclass(frozen=True)  # Python 3.11 cannot instantiate a frozen generic dataclass with slots through its alias
class DesiredState(Generic[Spec, S]):
    """A custom resource as its owner specified it, and the status that was last written. `created` is aware."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    spec: Spec
    status: S
    deleting: bool = False


def desired_state(item: Manifest, spec: type[Spec], status: type[S]) -> DesiredState[Spec, S]:
    """Parse a custom resource. An object that its schema refuses raises pydantic's ValidationError.

    Fields of its status that a newer operator wrote are left out, so that an older one goes on after a step back.
    """
    meta = item["metadata"]
    return DesiredState(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=int(meta.get("generation") or 0),
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        spec=spec.model_validate(item["spec"]),
        status=status.model_validate(item.get("status") or {}, extra="ignore"),
        deleting="deletionTimestamp" in meta,
    )


def owned_object(
    owner: DesiredState[Any, Any],
    owner_kind: str,
    version: str,
    kind: str,
    name: str,
    labels: Mapping[str, str],
) -> Manifest:
    """Return kind and metadata of an object that Kubernetes deletes with its owner, even while no operator runs."""
    reference = {
        "apiVersion": API_VERSION,
        "kind": owner_kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
    }
    metadata = {
        "name": name,
        "namespace": owner.namespace,
        "labels": {"app.kubernetes.io/managed-by": MANAGER, **labels},
        "ownerReferences": [reference],
    }
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def owned_by(item: Manifest, uid: str) -> bool:
    """Return whether an object has an owner reference to this uid."""
    return any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences") or ())


def has_other_manager(item: Manifest, field: str) -> bool:
    """Return whether another manager than the operator owns a field of an object's specification.

    An autoscaler owns `replicas` from its first change of the number on.
    """
    return any(
        entry.get("manager") != MANAGER and f"f:{field}" in ((entry.get("fieldsV1") or {}).get("f:spec") or {})
        for entry in item["metadata"].get("managedFields") or ()
    )


def parse_moment(text: str | None) -> datetime | None:
    """Parse a Kubernetes timestamp."""
    return datetime.fromisoformat(text) if text else None


def true_conditions(item: Manifest) -> dict[str, Manifest]:
    """Return an object's conditions whose status is True, by type."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    return {one["type"]: one for one in conditions if one.get("status") == "True"}


def job_state(item: Manifest) -> tuple[JobState, Manifest]:
    """Return the state of a Kubernetes Job, and the condition that ended it (empty while it is active)."""
    conditions = true_conditions(item)
    if "Complete" in conditions:
        return "succeeded", conditions["Complete"]
    if "Failed" in conditions:
        return "failed", conditions["Failed"]
    return "active", {}
