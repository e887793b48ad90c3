"""Column types, and checks that turn a value no column can hold into an InputError instead of a driver's error."""

from __future__ import annotations

from datetime import UTC, date, datetime

from sqlalchemy import BigInteger, ColumnElement, DateTime, Dialect, String, TypeDecorator, cast, func
from sqlalchemy.exc import DontWrapMixin

from mechanism.errors import InputError

LONGEST_TEXT = 1_000
# A trillion units of a currency. Sums over all charges a ledger will see still fit the 64 bits of a column.
MOST_MICROS = 10**18


class Moment(TypeDecorator[datetime]):
    """A moment in UTC. SQLite stores no time zone, so UTC is added again on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class BadText(InputError, DontWrapMixin):
    """Text that a database can neither store nor compare with."""


class Name(TypeDecorator[str]):
    """Text that both databases can store.

    NUL characters and lone surrogates are the caller's bad input in every query, writing or reading: without this check
    they would end as a driver's error.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value):
            return value
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise BadText("text", value, "it holds a NUL character or half of a surrogate pair: send valid UTF-8")
        return value


def sum_of(column: ColumnElement[int]) -> ColumnElement[int]:
    """Return the sum of a column of whole numbers; PostgreSQL's own sum of them is a decimal."""
    return cast(func.sum(column), BigInteger)


def checked_text(place: str, value: str, *, empty: bool = False) -> str:
    """Return the text if its length fits a column; `Name` checks its characters.

    Raises:
        InputError: if the text is too long, or empty where `empty` is False.
    """
    if not value and not empty:
        raise InputError(place, value, "it must not be empty")
    if len(value) > LONGEST_TEXT:
        raise InputError(place, value, f"it may have {LONGEST_TEXT} characters at most")
    return value


def checked_micros(place: str, value: int, most: int = MOST_MICROS) -> int:
    """Return the amount of money if it fits a column.

    Raises:
        InputError: if the amount is not a whole number from 0 to `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InputError(place, value, f"give a whole number of micros from 0 to {most}")
    return value


def checked_moment(place: str, value: datetime) -> datetime:
    """Return the moment if it has a time zone.

    Raises:
        InputError: if the moment has no time zone.
    """
    if value.tzinfo is None:
        raise InputError(place, value.isoformat(), "add the time zone, for example a Z at the end")
    return value


def checked_day(place: str, value: str) -> date:
    """Return the date of an ISO day.

    Raises:
        InputError: if it is none, or is written in another of ISO's forms.
    """
    try:
        found = date.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.isoformat() != value:
        raise InputError(place, value, "give an ISO date such as 2026-11-24")
    return found
