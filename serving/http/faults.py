"""What is wrong with a body that its type refuses: every field at once, each with its value and what to do.

msgspec itself stops at the first fault and does not say which values an enumeration has. Only refused bodies come here.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from mechanism.errors import InputError

LONGEST_NAME = 80


def faults(raw: Any, kind: Any, place: str = "") -> Iterator[InputError]:
    """The faults of plain JSON values that shall become a `kind`; `place` is where in the body they are."""
    kind = _branch(raw, kind)
    if _is_struct(kind) and isinstance(raw, dict):
        yield from _of_fields(raw, kind, place)
    elif get_origin(kind) in (list, tuple) and isinstance(raw, list):
        for number, item in enumerate(raw):
            yield from faults(item, get_args(kind)[0], f"{place}[{number}]")
    elif (choices := _choices(kind)) is not None:
        if raw not in choices:
            remedy = f"use one of {', '.join(choices)}" if len(choices) > 1 else f"only {choices[0]!r} is supported"
            yield InputError(place or "body", raw, remedy)
    else:
        try:
            msgspec.convert(raw, kind)
        except msgspec.ValidationError as error:
            yield told(error, raw, place)


def told(error: msgspec.ValidationError, raw: Any, place: str = "") -> InputError:
    """One fault in msgspec's own words."""
    what, _, path = str(error).partition(" - at `$")
    return InputError((place + path.rstrip("`")).lstrip(".") or "body", raw, what[:1].lower() + what[1:])


def _of_fields(raw: dict[str, Any], kind: Any, place: str) -> Iterator[InputError]:
    dot = f"{place}." if place else ""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    if kind.__struct_config__.forbid_unknown_fields:
        for name, value in raw.items():
            if name not in fields:
                yield InputError(f"{dot}{name[:LONGEST_NAME]}", value, "leave it out: it is not supported here")
    for name, field in fields.items():
        if name in raw:
            yield from faults(raw[name], field.type, dot + name)
        elif field.required:
            yield InputError(dot + name, None, "give this field: it is required")


def _branch(raw: Any, kind: Any) -> Any:
    """Of a union the branch for such a value, where there is one; the kind itself else."""
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
