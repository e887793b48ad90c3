"""Record timestamps: UTC, to the millisecond, as logs keep them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    """Milliseconds since 1970 as a moment."""
    return _EPOCH + milliseconds * _MILLISECOND


def to_ms(moment: datetime) -> int:
    """A moment as milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // _MILLISECOND
