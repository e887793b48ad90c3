"""Conversion between the structs of `streaming.events` and Arrow: column types, values to write, and rows read back.

The column types are derived from the fields' types and never inferred from values: a struct becomes an Arrow struct, a
tuple a list, a dict a map, a datetime a timestamp in microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa
from msgspec import inspect

Converter = Callable[[Any], Any]
_SCALARS: dict[type, Any] = {
    inspect.StrType: pa.string(),
    inspect.IntType: pa.int64(),
    inspect.FloatType: pa.float64(),
    inspect.BoolType: pa.bool_(),
    inspect.DateTimeType: pa.timestamp("us", tz="UTC"),
    inspect.LiteralType: pa.string(),
}


def columns(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the Arrow type of every field of a struct."""
    return {field.name: _arrow_type(field.type) for field in _fields(kind)}


@cache
def plainers(kind: type[msgspec.Struct]) -> dict[str, Converter]:
    """Return, for every field of a struct, a function that converts its values to those that `pyarrow` accepts.

    The functions are built once per type, as a row has about a hundred values.
    """
    return {field.name: _converter(field.type) or _unchanged for field in _fields(kind)}


def struct(kind: type[msgspec.Struct], row: dict[str, Any]) -> Any:
    """Convert a row that `pyarrow` returned to a struct, the reverse of `plainers`.

    The ValidationError of `msgspec` propagates if the row does not fit the struct.
    """
    return msgspec.convert(_fields_of_row(_type(kind), row), kind)


@cache
def _type(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _fields(kind: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    described = _type(kind)
    assert isinstance(described, inspect.StructType)
    return described.fields


def _arrow_type(kind: inspect.Type) -> Any:
    kind = _bare(kind)
    if (scalar := _SCALARS.get(type(kind))) is not None:
        return scalar
    match kind:
        case inspect.StructType(fields=fields):
            return pa.struct([pa.field(field.name, _arrow_type(field.type)) for field in fields])
        case inspect.VarTupleType(item_type=item):
            return pa.list_(_arrow_type(item))
        case inspect.TupleType(item_types=items):
            assert len({type(_bare(item)) for item in items}) == 1, kind
            return pa.list_(_arrow_type(items[0]))
        case inspect.DictType(key_type=key, value_type=value):
            return pa.map_(_arrow_type(key), _arrow_type(value))
        case _:
            raise TypeError(f"no column is known for {kind}")


def _converter(kind: inspect.Type) -> Converter | None:
    """Return the function that converts values of a type, which may be None; None if they need no conversion."""
    convert = _converter_of_bare(_bare(kind))
    if convert is None or not isinstance(kind, inspect.UnionType):
        return convert
    return lambda value: None if value is None else convert(value)


def _converter_of_bare(kind: inspect.Type) -> Converter | None:
    match kind:
        case inspect.StructType(fields=fields):
            converters = [(field.name, _converter(field.type)) for field in fields]
            unchanged = [name for name, convert in converters if convert is None]
            converted = [(name, convert) for name, convert in converters if convert is not None]
            return lambda value: (
                {name: getattr(value, name) for name in unchanged}
                | {name: convert(getattr(value, name)) for name, convert in converted}
            )
        case inspect.VarTupleType(item_type=item):
            convert_item = _converter(item)
            return list if convert_item is None else lambda value: [convert_item(part) for part in value]
        case inspect.TupleType():
            return list
        case inspect.DictType():
            return lambda value: list(value.items())
        case _:
            return None


def _unchanged(value: Any) -> Any:
    return value


def _fields_of_row(kind: inspect.Type, value: Any) -> Any:
    """Convert an Arrow value to input of `msgspec.convert`, with the tags of structs and without their null fields."""
    kind = _bare(kind)
    if value is None:
        return None
    match kind:
        case inspect.StructType(fields=fields, array_like=True):
            return [_fields_of_row(field.type, value[field.name]) for field in fields]
        case inspect.StructType(fields=fields):
            parts = {f.name: _fields_of_row(f.type, value[f.name]) for f in fields if value.get(f.name) is not None}
            return parts if kind.tag is None else {str(kind.tag_field): kind.tag, **parts}
        case inspect.VarTupleType(item_type=item):
            return value if type(_bare(item)) in _SCALARS else [_fields_of_row(item, part) for part in value]
        case inspect.DictType():
            return dict(value)
        case _:
            return value


def _bare(kind: inspect.Type) -> inspect.Type:
    """Return a type without its metadata and without an alternative None: every Arrow column is nullable."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        (only,) = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
        return _bare(only)
    return kind
