"""Converts a Pydantic model to a structural OpenAPI v3 schema, as a CustomResourceDefinition needs it.

Such a schema has no references and no `title`, `nullable` in place of a union with null, and `exclusiveMinimum` as a
flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
"""A JSON schema, or a part of one."""
DROPPED = ("title", "$defs", "discriminator")


def inlined(model: type[BaseModel]) -> Schema:
    """Return the model's JSON schema with every reference replaced by its target."""
    schema = model.model_json_schema(by_alias=True)
    result: Schema = _resolve(schema, schema.get("$defs", {}))
    return result


def _resolve(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_resolve(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = _resolve(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: _resolve(value, definitions) for key, value in node.items() if key != "$defs"}


def structural(schema: Mapping[str, Any], *, defaults: bool = True) -> Schema:
    """Convert an inlined schema; without `defaults` for a status.

    Raises:
        TypeError: if a value can have several types.
    """
    node = _without_null(dict(schema))
    node = {key: value for key, value in node.items() if key not in DROPPED}
    if "description" in node:
        node["description"] = " ".join(str(node["description"]).split()) + (_range_text(node) if defaults else "")
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node and not isinstance(node[bound], bool):
            _exclusive_flag(node, bound, limit)
    _add_fraction_rule(node)
    if node.get("x-kubernetes-int-or-string"):
        node.pop("type", None)
    elif "anyOf" in node:
        raise TypeError(f"a structural schema has one type for each value, not {node['anyOf']}")
    if "properties" in node:
        node.pop("additionalProperties", None)
        node["properties"] = {name: structural(one, defaults=defaults) for name, one in node["properties"].items()}
    elif isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = structural(node["additionalProperties"], defaults=defaults)
    if "items" in node:
        node["items"] = structural(node["items"], defaults=defaults)
    _set_default(node, defaults)
    return node


def _without_null(node: Schema) -> Schema:
    """Replace a union with null by its other type.

    The API server drops a null in a field that is not nullable; where null is the default that means the same. Where
    the default is another value, null is a value of its own and the field becomes nullable.
    """
    if "anyOf" not in node or node.get("x-kubernetes-int-or-string"):
        return node
    others = [one for one in node["anyOf"] if one != {"type": "null"}]
    if len(others) != 1 or len(others) == len(node["anyOf"]):
        return node
    own = {key: value for key, value in node.items() if key != "anyOf"}
    merged = {**others[0], **own}
    if own.get("default") is not None:
        merged["nullable"] = True
    return merged


def _range_text(node: Schema) -> str:
    """Describe range and default in words, because `kubectl explain` shows neither."""
    parts = []
    low, high = node.get("minimum"), node.get("maximum")
    above, under = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if node.get("type") == "integer":
        low, above = (above + 1, None) if above is not None else (low, None)
        high, under = (under - 1, None) if under is not None else (high, None)
    if (low, high) != (None, None) and None not in (low, high):
        parts.append(f"{low} to {high}")
    else:
        limits = {"at least": low, "above": above, "at most": high, "below": under}
        parts.append(", ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None))
    default = node.get("default")
    if isinstance(default, str | int | float) and default != "":
        parts.append(f"default {str(default).lower() if isinstance(default, bool) else default}")
    text = ", ".join(one for one in parts if one)
    return f" ({text})" if text else ""


def _add_fraction_rule(node: Schema) -> None:
    """Replace a fractional limit by a rule: the API server's message prints a limit such as 0.9999 as 0."""
    if node.get("type") != "number":
        return
    limits, expressions = [], []
    for bound, flag, strict, loose, strict_word, loose_word in (
        ("minimum", "exclusiveMinimum", ">", ">=", "above", "at least"),
        ("maximum", "exclusiveMaximum", "<", "<=", "below", "at most"),
    ):
        if bound not in node or float(node[bound]).is_integer():
            continue
        limit, exclusive = float(node.pop(bound)), bool(node.pop(flag, False))
        expressions.append(f"self {strict if exclusive else loose} {limit!r}")
        limits.append(f"{strict_word if exclusive else loose_word} {limit:g}")
    if expressions:
        rule = {"rule": " && ".join(expressions), "message": f"must be {' and '.join(limits)}"}
        node["x-kubernetes-validations"] = [*node.get("x-kubernetes-validations", ()), rule]


def _exclusive_flag(node: Schema, bound: str, limit: str) -> None:
    value = node.pop(bound)
    if node.get("type") == "integer":
        node[limit] = value + (1 if limit == "minimum" else -1)
    else:
        node[limit], node[bound] = value, True


def _set_default(node: Schema, defaults: bool) -> None:
    """Make the empty object the default of a section: the defaults of its fields complete it.

    A section with rules gets the full default, because the API server checks the rules on the default as written.
    """
    if not defaults or node.get("default") is None:
        node.pop("default", None)
    elif "properties" in node:
        node["default"] = _full_default(node) if "x-kubernetes-validations" in node else {}


def _full_default(node: Schema) -> Any:
    if "properties" not in node:
        return node["default"]
    return {name: _full_default(one) for name, one in node["properties"].items() if "default" in one}
