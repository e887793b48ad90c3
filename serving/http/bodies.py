"""Bodies and query parameters of requests: decoded once, refused with all fields, their values and the remedies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any, TypeVar

import msgspec

from mechanism.errors import InputError
from serving.errors import ApiError, bad_fields, bad_request
from serving.http.faults import LONGEST_NAME, faults, told

MOST_FAULTS = 20
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as the decoder's type. Raises ApiError (400)."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
        problem = error
    except RecursionError:
        raise ApiError(400, "body: it is nested too deeply: send a flatter object", code="invalid_json") from None
    raw = decode_object(body)
    assert isinstance(problem, msgspec.ValidationError), "what is JSON can only be of another shape"
    raise _refused(problem, raw, decoder.type) from problem


def decode_object(body: bytes) -> Any:
    """The body as plain JSON values. Raises ApiError (400) for what is no JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # msgspec lets the decoding error of its own error message through where the bytes are no UTF-8
        what = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8"}.get(
            type(error), str(error)
        )
        raise ApiError(400, f"the body is not JSON: {what}: send one JSON object", code="invalid_json") from error


def convert(raw: Any, kind: type[T]) -> T:
    """Plain values as `kind`. Raises ApiError (400)."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise _refused(error, raw, kind) from error


def _refused(error: msgspec.ValidationError, raw: Any, kind: Any) -> ApiError:
    # What the plain values do not show (a key given twice) is told in msgspec's words.
    found = list(islice(faults(raw, kind), MOST_FAULTS)) or [told(error, None)]
    return bad_fields(found)


def number(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number among the query parameters. Raises ApiError (400) outside of low..high."""
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high):
        raise bad_request(name, text, f"give a whole number from {low} to {high}")
    return int(text)


def choice(query: Mapping[str, str], name: str, kind: type[E]) -> E | None:
    """One of an enumeration's values among the query parameters, None where it is not given."""
    text = query.get(name)
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise bad_request(name, text, f"use one of {', '.join(kind)}") from None


def aware(place: str, moment: datetime | None) -> datetime | None:
    """A moment with its offset. Raises ApiError (400) where it has none."""
    if moment is not None and moment.tzinfo is None:
        raise bad_request(place, moment.isoformat(), "say which time zone, e.g. by a Z at the end")
    return moment


def only(query: Mapping[str, str], known: set[str]) -> None:
    """Raises ApiError (400) for a query parameter that is not known: a misspelt filter must not list everything."""
    unknown = [name for name in query if name not in known]
    if unknown:
        remedy = f"leave it out: known are {', '.join(sorted(known))}"
        raise bad_fields([InputError(name[:LONGEST_NAME], query[name], remedy) for name in unknown[:MOST_FAULTS]])
