"""A custom resource as its owner wants it: the same for every kind, but for its specification and status."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from operators.resources.base import ApiModel

Spec = TypeVar("Spec", bound=ApiModel)
Status = TypeVar("Status", bound=ApiModel)


@dataclass(frozen=True)  # with slots a frozen generic one cannot be made through its alias (Python 3.11)
class DesiredState(Generic[Spec, Status]):
    """What is wanted, and the status that was last written. `created` is aware."""

    name: str
    namespace: str
    uid: str
    generation: int
    created: datetime
    spec: Spec
    status: Status
    deleting: bool = False


def desired_state(item: Mapping[str, Any], spec: type[Spec], status: type[Status]) -> DesiredState[Spec, Status]:
    """Out of the API's object. Raises pydantic's ValidationError for one that its schema refuses."""
    meta = item["metadata"]
    return DesiredState(
        name=meta["name"],
        namespace=meta["namespace"],
        uid=meta["uid"],
        generation=int(meta.get("generation") or 0),
        created=datetime.fromisoformat(meta["creationTimestamp"]),
        spec=spec.model_validate(item["spec"]),
        status=status.model_validate(item.get("status") or {}),
        deleting="deletionTimestamp" in meta,
    )
