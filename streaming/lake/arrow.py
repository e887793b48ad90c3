"""Structs of `streaming.events` as Arrow columns and back: one place, derived from the fields themselves.

A struct becomes a struct, a tuple a list, a dict a map, a moment microseconds in UTC; nothing is left to inference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import inspect

Plain = Callable[[Any], Any]
_SCALARS: dict[type, Any] = {
    inspect.StrType: pa.string(),
    inspect.IntType: pa.int64(),
    inspect.FloatType: pa.float64(),
    inspect.BoolType: pa.bool_(),
    inspect.DateTimeType: pa.timestamp("us", tz="UTC"),
    inspect.LiteralType: pa.string(),
}


def columns(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Arrow's type of every field of a struct."""
    return {field.name: _arrow(field.type) for field in _fields(kind)}


@cache
def plainers(kind: type[msgspec.Struct]) -> dict[str, Plain]:
    """For every field of a struct what makes of its value what `pyarrow` takes for a column of its type. Worked out
    once from the types: a shard holds a hundred values a row."""
    return {field.name: _plainer(field.type) or _same for field in _fields(kind)}


def struct(kind: type[msgspec.Struct], told: dict[str, Any]) -> Any:
    """The struct of a row as `pyarrow` gives it; the reverse of `plain`. Raises ValidationError."""
    return msgspec.convert(_told(_type(kind), told), kind)


@cache
def _type(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    told = _type(kind)
    assert isinstance(told, inspect.StructType)
    return told.fields


def _arrow(kind: inspect.Type) -> Any:
    kind = _bare(kind)
    if (scalar := _SCALARS.get(type(kind))) is not None:
        return scalar
    match kind:
        case inspect.StructType(fields=fields):
            return pa.struct([pa.field(field.name, _arrow(field.type)) for field in fields])
        case inspect.VarTupleType(item_type=item):
            return pa.list_(_arrow(item))
        case inspect.TupleType(item_types=items):
            assert len({type(_bare(item)) for item in items}) == 1, kind
            return pa.list_(_arrow(items[0]))
        case inspect.DictType(key_type=key, value_type=value):
            return pa.map_(_arrow(key), _arrow(value))
        case _:
            raise TypeError(f"no column is known for {kind}")


def _plainer(kind: inspect.Type) -> Plain | None:
    """None where the value can stay as it is."""
    found = _plainer_of(_bare(kind))
    if found is None or not isinstance(kind, inspect.UnionType):
        return found
    return lambda value: None if value is None else found(value)


def _plainer_of(kind: inspect.Type) -> Plain | None:
    match kind:
        case inspect.StructType(fields=fields):
            parts = [(field.name, _plainer(field.type)) for field in fields]
            names = [name for name, part in parts if part is None]
            deeper = [(name, part) for name, part in parts if part is not None]
            return lambda value: (
                {name: getattr(value, name) for name in names}
                | {name: part(getattr(value, name)) for name, part in deeper}
            )
        case inspect.VarTupleType(item_type=item):
            inner = _plainer(item)
            return list if inner is None else lambda value: [inner(part) for part in value]
        case inspect.TupleType():
            return list
        case inspect.DictType():
            return lambda value: list(value.items())
        case _:
            return None


def _same(value: Any) -> Any:
    return value


def _told(kind: inspect.Type, value: Any) -> Any:
    """A value of Arrow as `msgspec.convert` takes it: what is null and has a default is left out."""
    kind = _bare(kind)
    if value is None:
        return None
    match kind:
        case inspect.StructType(fields=fields, array_like=True):
            return [_told(field.type, value[field.name]) for field in fields]
        case inspect.StructType(fields=fields):
            parts = {f.name: _told(f.type, value[f.name]) for f in fields if value.get(f.name) is not None}
            return parts if kind.tag is None else {str(kind.tag_field): kind.tag, **parts}
        case inspect.VarTupleType(item_type=item):
            return value if type(_bare(item)) in _SCALARS else [_told(item, part) for part in value]
        case inspect.DictType():
            return dict(value)
        case _:
            return value


def _bare(kind: inspect.Type) -> inspect.Type:
    """Without metadata, and without None beside it: every column may be null."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        (only,) = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
        return _bare(only)
    return kind
