"""What the columns can hold: text, money and moments, checked before a database refuses them with a traceback."""

from __future__ import annotations

from datetime import datetime

from mechanism.errors import InputError

LONGEST_TEXT = 1_000
# A trillion units. Sums of as many charges as a ledger will see still fit the 64 bits of a column.
MOST_MICROS = 10**18


def checked_text(place: str, value: str, *, empty: bool = False) -> str:
    """The text. Raises InputError where it is empty (unless allowed) or too long.

    What no column can hold is refused by `serving.database.schema.Name`.
    """
    if not value and not empty:
        raise InputError(place, value, "it must not be empty")
    if len(value) > LONGEST_TEXT:
        raise InputError(place, value, f"it may have {LONGEST_TEXT} characters at most")
    return value


def checked_micros(place: str, value: int, most: int = MOST_MICROS) -> int:
    """The amount. Raises InputError unless it is a whole number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(place, value, f"give a whole number of micros from 0 to {most}")
    return value


def checked_moment(place: str, value: datetime) -> datetime:
    """The moment. Raises InputError where it has no time zone."""
    if value.tzinfo is None:
        raise InputError(place, value.isoformat(), "say which time zone, e.g. by a Z at the end")
    return value
