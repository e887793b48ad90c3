"""Conditions in a status: replaced by type, with the moment of their last change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from operators.resources.base import Condition


def with_condition(
    conditions: Sequence[Condition], type_: str, holds: bool, reason: str, message: str, now: datetime, generation: int
) -> list[Condition]:
    """The conditions with one of them set; its time changes only if its status does."""
    status = "True" if holds else "False"
    before = next((one for one in conditions if one.type == type_), None)
    since = before.last_transition_time if before is not None and before.status == status else now
    made = Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message[:4096],
        last_transition_time=since,
        observed_generation=generation,
    )
    if before is None:
        return [*conditions, made]
    return [made if one.type == type_ else one for one in conditions]
