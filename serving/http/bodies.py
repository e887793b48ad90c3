"""Bodies and query parameters of requests, and responses as JSON or CSV.

A wrong request is refused with all its faults at once: the field, its value and the remedy. msgspec itself stops at the
first fault and does not name the values of an enumeration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from difflib import get_close_matches
from enum import Enum, StrEnum
from itertools import islice
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec
from litestar import Request, Response

from mechanism.errors import InputError, whole_number
from serving.errors import ApiError, BadFields, BadRequest

MOST_FAULTS = 20
LONGEST_NAME = 80
T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
HttpRequest: TypeAlias = Request[Any, Any, Any]
"""A request as handlers take it: the router uses none of Litestar's typed user, auth and state."""
_JSON = {"str": "a string", "float": "a number", "bool": "true or false", "array": "a list", "object": "an object"}
_EXPECTED = re.compile(rf"Expected `(int|{'|'.join(_JSON)})(?: \| null)?`, got `[^`]+`")
"""What msgspec writes of a JSON value of the wrong type."""


def json_response(value: object, status: int = 200) -> Response[bytes]:
    """Encode a value as a JSON response that no cache keeps; `msgspec.Raw` is passed on as it is."""
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)


class Format(StrEnum):
    """The format of a report."""

    JSON = "json"
    CSV = "csv"


def csv_response(text: str, file_name: str) -> Response[bytes]:
    """Return a CSV text as a file to download, which no cache keeps."""
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{file_name}"'}
    return Response(text.encode(), media_type="text/csv", headers=headers)


def decode_body(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a body as the decoder's type.

    Raises:
        ApiError: 400 if it is not JSON.
        BadFields: if it has another shape.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is a DecodeError
        problem = error
    except RecursionError:
        raise ApiError(400, "body: it is nested too deeply: send a flatter object", code="invalid_json") from None
    raw = decode_object(body)
    assert isinstance(problem, msgspec.ValidationError), "what is JSON can only be of another shape"
    raise BadFields(_faults(problem, raw, decoder.type)) from problem


def decode_object(body: bytes) -> Any:
    """Decode a body as plain JSON values.

    Raises:
        ApiError: 400 if it is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # For bytes that are not UTF-8, msgspec raises the UnicodeDecodeError of its own error message.
        fault = {RecursionError: "it is nested too deeply", UnicodeDecodeError: "it is not UTF-8"}.get(
            type(error), str(error)
        )
        raise ApiError(400, f"the body is not JSON: {fault}: send one JSON object", code="invalid_json") from error


def convert(raw: Any, kind: type[T]) -> T:
    """Convert plain JSON values to `kind`.

    Raises:
        BadFields: if they have another shape.
    """
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise BadFields(_faults(error, raw, kind)) from error


def number(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Read a whole number from the query parameters.

    Raises:
        BadRequest: if it lies outside low..high.
    """
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and low <= int(text) <= high):
        raise BadRequest(name, text, f"give a whole number from {low} to {high}")
    return int(text)


def choice(query: Mapping[str, str], name: str, kind: type[E]) -> E | None:
    """Read one of an enumeration's values from the query parameters; None where it is not given.

    Raises:
        BadRequest: for any other value.
    """
    text = query.get(name)
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise BadRequest(name, text, f"use one of {', '.join(kind)}") from None


def aware(place: str, moment: datetime | None) -> datetime | None:
    """Return a time that has a UTC offset.

    Raises:
        BadRequest: if it has none.
    """
    if moment is not None and moment.tzinfo is None:
        raise BadRequest(place, moment.isoformat(), "add the time zone, e.g. a Z at the end")
    return moment


def only(query: Mapping[str, str], known: set[str]) -> None:
    """Refuse unknown query parameters: a misspelt filter must not list everything.

    Raises:
        BadFields: naming all of them.
    """
    unknown = [name for name in query if name not in known]
    if unknown:
        remedy = f"leave it out: known are {', '.join(sorted(known))}"
        raise BadFields([InputError(name[:LONGEST_NAME], query[name], remedy) for name in unknown[:MOST_FAULTS]])


def find_faults(raw: Any, kind: Any, place: str = "") -> Iterator[InputError]:
    """Yield what is wrong with plain JSON values that are to become a `kind`; `place` is their path in the body."""
    kind = _branch(raw, kind)
    if _is_struct(kind) and isinstance(raw, dict):
        yield from _faults_of_fields(raw, kind, place)
    elif get_origin(kind) in (list, tuple) and isinstance(raw, list):
        for index, item in enumerate(raw):
            yield from find_faults(item, get_args(kind)[0], f"{place}[{index}]")
    elif get_origin(kind) is dict and isinstance(raw, dict):
        for name, item in raw.items():
            yield from find_faults(item, get_args(kind)[1], f"{place}.{name[:LONGEST_NAME]}".lstrip("."))
    elif (choices := _choices(kind)) is not None:
        if raw not in choices:
            remedy = f"use one of {', '.join(choices)}" if len(choices) > 1 else f"only {choices[0]!r} is supported"
            yield InputError(place or "body", raw, remedy)
    else:
        try:
            msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            yield _fault(error, raw, place)


def _faults(error: msgspec.ValidationError, raw: Any, kind: Any) -> list[InputError]:
    # Some faults, such as a key given twice, do not show in the plain values: then msgspec's message is used.
    return list(islice(find_faults(raw, kind), MOST_FAULTS)) or [_fault(error, None)]


def _fault(error: msgspec.ValidationError, raw: Any, place: str = "") -> InputError:
    """Return msgspec's message as one fault, with a remedy where the message is about the type alone."""
    message, _, path = str(error).partition(" - at `$")
    place = (place + path.rstrip("`")).lstrip(".") or "body"
    if message == "Invalid RFC3339 encoded datetime":
        return InputError(place, raw, "give a time with its zone, such as 2026-11-29T09:00:00Z")
    expected = _EXPECTED.fullmatch(message)
    if expected is None:
        return InputError(place, raw, message[:1].lower() + message[1:])
    remedy = whole_number(place) if expected[1] == "int" else f"give {_JSON[expected[1]]}"
    return InputError(place, raw, remedy)


def _faults_of_fields(raw: dict[str, Any], kind: Any, place: str) -> Iterator[InputError]:
    dot = f"{place}." if place else ""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if kind.__struct_config__.forbid_unknown_fields:
        for name, value in raw.items():
            if name not in fields:
                close = get_close_matches(name[:LONGEST_NAME], fields, n=1)
                meant = f"; if you meant {close[0]}, rename it" if close else ""
                yield InputError(f"{dot}{name[:LONGEST_NAME]}", value, f"leave it out: it is not supported here{meant}")
    for name, field in fields.items():
        if name in raw:
            yield from find_faults(raw[name], field.type, dot + name)
        elif field.required:
            yield InputError(dot + name, None, "give this field: it is required")


def _branch(raw: Any, kind: Any) -> Any:
    """Return the branch of a union that such a value belongs to; the kind itself if there is none."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    options = [option for option in get_args(kind) if option is not NoneType]
    if raw is None or len(options) == 1:
        return kind if raw is None else options[0]
    if isinstance(raw, list):
        return next((option for option in options if get_origin(option) in (list, tuple)), kind)
    return kind


def _choices(kind: Any) -> list[Any] | None:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [member.value for member in kind] if isinstance(kind, type) and issubclass(kind, Enum) else None


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
