"""Fields of an event that this program does not know, because its producer is newer.

They are named by their JSON pointers (RFC 6901), such as `/candidates/0/score`, and kept unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from streaming.codec import kind_of

PERSONAL = "/reader/"


def unknown_fields(topic: str, data: bytes) -> dict[str, Any]:
    """Return the unknown fields of an event that `codec.decode` accepts, by their JSON pointers."""
    value = msgspec.json.decode(data)
    return dict(_unknown(_type_of(topic, value["version"]), value, ""))


@cache
def _type_of(topic: str, version: int) -> inspect.Type:
    return inspect.type_info(kind_of(topic, version))


def _unknown(kind: inspect.Type, value: Any, at: str) -> Iterator[tuple[str, Any]]:
    match kind:
        case inspect.Metadata(type=inner):
            yield from _unknown(inner, value, at)
        case inspect.UnionType(types=types):
            for part in types:
                if value is not None and not isinstance(part, inspect.NoneType):
                    yield from _unknown(part, value, at)
        case inspect.StructType(array_like=True, fields=fields):
            yield from ((f"{at}/{i}", part) for i, part in enumerate(value) if i >= len(fields))
        case inspect.StructType(fields=fields, tag_field=tag):
            known = {field.encode_name: field.type for field in fields}
            for name, part in value.items():
                if name in known:
                    yield from _unknown(known[name], part, f"{at}/{_escaped(name)}")
                elif name != tag:
                    yield f"{at}/{_escaped(name)}", part
        case inspect.VarTupleType(item_type=item):
            for i, part in enumerate(value):
                yield from _unknown(item, part, f"{at}/{i}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
