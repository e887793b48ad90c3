"""From a Pydantic model to a structural OpenAPI v3 schema, the kind that a CustomResourceDefinition holds.

Kubernetes wants no references, no `title`, `nullable` in place of a union with null, and `exclusiveMinimum` as a flag.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

DROPPED = ("title", "$defs", "discriminator")


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with every reference replaced by what it refers to."""
    schema = model.model_json_schema(by_alias=True)
    result: dict[str, Any] = _resolve(schema, schema.get("$defs", {}))
    return result


def _resolve(node: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_resolve(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = _resolve(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    return {key: _resolve(value, definitions) for key, value in node.items() if key != "$defs"}


def structural(schema: Mapping[str, Any], *, defaults: bool = True) -> dict[str, Any]:
    """A structural schema from an inlined one. `defaults` False leaves them out, as for a status."""
    node = _without_null(dict(schema))
    node = {key: value for key, value in node.items() if key not in DROPPED}
    if "description" in node:
        node["description"] = " ".join(str(node["description"]).split()) + (_bounds(node) if defaults else "")
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in node and not isinstance(node[bound], bool):
            _flagged(node, bound, limit)
    _rule_for_fractions(node)
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
    _settle_default(node, defaults)
    return node


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """A union with null becomes the other type. The API server drops a null of a field that is not nullable, which is
    what null means wherever it is the default; where it is not, null is a value of its own and stays."""
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


def _bounds(node: Mapping[str, Any]) -> str:
    """Range and default of a value in words, since `kubectl explain` shows neither."""
    said = []
    low, high = node.get("minimum"), node.get("maximum")
    above, under = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if node.get("type") == "integer":
        low, above = (above + 1, None) if above is not None else (low, None)
        high, under = (under - 1, None) if under is not None else (high, None)
    if (low, high) != (None, None) and None not in (low, high):
        said.append(f"{low} to {high}")
    else:
        limits = {"at least": low, "above": above, "at most": high, "below": under}
        said.append(", ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None))
    default = node.get("default")
    if isinstance(default, str | int | float) and default != "":
        said.append(f"default {str(default).lower() if isinstance(default, bool) else default}")
    words = ", ".join(one for one in said if one)
    return f" ({words})" if words else ""


def _rule_for_fractions(node: dict[str, Any]) -> None:
    """The API server checks a limit such as 0.9999 and prints it as 0, so that such limits become a rule."""
    if node.get("type") != "number":
        return
    said, expressions = [], []
    for bound, flag, strict, loose, strict_word, loose_word in (
        ("minimum", "exclusiveMinimum", ">", ">=", "above", "at least"),
        ("maximum", "exclusiveMaximum", "<", "<=", "below", "at most"),
    ):
        if bound not in node or float(node[bound]).is_integer():
            continue
        limit, open_ = float(node.pop(bound)), bool(node.pop(flag, False))
        expressions.append(f"self {strict if open_ else loose} {limit!r}")
        said.append(f"{strict_word if open_ else loose_word} {limit:g}")
    if expressions:
        rule = {"rule": " && ".join(expressions), "message": f"must be {' and '.join(said)}"}
        node["x-kubernetes-validations"] = [*node.get("x-kubernetes-validations", ()), rule]


def _flagged(node: dict[str, Any], bound: str, limit: str) -> None:
    value = node.pop(bound)
    if node.get("type") == "integer":
        node[limit] = value + (1 if limit == "minimum" else -1)
    else:
        node[limit], node[bound] = value, True


def _settle_default(node: dict[str, Any], defaults: bool) -> None:
    """A section's default is the empty object: the defaults of its fields fill it. Where rules hold for the section,
    all of them are written out, since the API server checks the rules on the default as it stands."""
    if not defaults or node.get("default") is None:
        node.pop("default", None)
    elif "properties" in node:
        node["default"] = _filled(node) if "x-kubernetes-validations" in node else {}


def _filled(node: Mapping[str, Any]) -> Any:
    """The default of an object with the defaults of all its fields."""
    if "properties" not in node:
        return node["default"]
    return {name: _filled(one) for name, one in node["properties"].items() if "default" in one}
