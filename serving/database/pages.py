"""Pages of long lists: a cursor names the last item seen, so that no item is skipped or repeated while others come."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Generic, TypeVar

import msgspec

from mechanism.errors import InputError

T = TypeVar("T")
MOST_ITEMS = 1_000


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some items, and the cursor of the next page: empty at the end."""

    items: tuple[T, ...]
    cursor: str = ""


def write_cursor(key: tuple[Any, ...]) -> str:
    """The sort key of the last item seen, as text that is safe in a URL."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode("ascii")


def read_cursor(cursor: str, kind: type[T]) -> T:
    """The sort key out of a cursor. Raises InputError where it is not one of ours."""
    try:
        return msgspec.json.decode(base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True), type=kind)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise InputError("cursor", cursor, "give the cursor of the page before, or none for the first page") from error


def checked_limit(limit: int) -> int:
    """The size of a page. Raises InputError outside 1..1000."""
    if not 1 <= limit <= MOST_ITEMS:
        raise InputError("limit", limit, f"give a whole number from 1 to {MOST_ITEMS}")
    return limit
