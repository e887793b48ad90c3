"""What the models of all custom resources share: camelCase names, strict fields, CEL rules, conditions.

`operators.resources.structural` turns a model into the schema of a CustomResourceDefinition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "llm-auction.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Manifest = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON. Its shape is defined by Kubernetes."""


class ApiModel(BaseModel):
    """Base of every part of a resource: camelCase in the API, unknown fields are errors, instances are frozen.

    The docstring below a field is its description in `kubectl explain`.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def to_api(self) -> Manifest:
        """Serialise for the API server: camelCase names, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rule(expression: str, message: str) -> dict[str, str]:
    """Return a validation rule in CEL for the API server; `message` names the remedy."""
    return {"rule": expression, "message": message}


def checked(*rules: dict[str, str]) -> ConfigDict:
    """Return the `model_config` that attaches rules to a model."""
    validations: list[JsonValue] = [{**one} for one in rules]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": validations})


def checked_value(longest: int, *rules: dict[str, str]) -> WithJsonSchema:
    """Return a string's schema with rules in place of a pattern: the API server prints a pattern without a remedy."""
    validations = [{**one} for one in rules]
    return WithJsonSchema({"type": "string", "maxLength": longest, "x-kubernetes-validations": validations})


def immutable(names: Iterable[str], optional: Iterable[str] = ()) -> tuple[dict[str, str], ...]:
    """Return the rules that make fields immutable; `optional` fields may be missing and then stay missing."""
    remedy = "is immutable: create a new object"
    required_rules = [rule(f"self.{name} == oldSelf.{name}", f"{name} {remedy}") for name in names]
    optional_rules = [
        rule(
            f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            f"{name} {remedy}",
        )
        for name in optional
    ]
    return (*required_rules, *optional_rules)


_NUMBER = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
Quantity = Annotated[
    str | int,
    Field(union_mode="left_to_right"),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": rf"^[+-]?{_NUMBER}([KMGTPE]i|[numkMGTPE]|[eE][+-]?{_NUMBER})?$",
            "maxLength": 64,
        }
    ),
]
"""A Kubernetes quantity: 4, 500m, 64Gi."""

Name = Annotated[str, Field(min_length=1, max_length=253)]
"""The name of another object."""

DnsLabel = Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""A name inside a pod: of a container, volume or claim."""


def timestamp(moment: AwareDatetime) -> str:
    """Format a UTC time as Kubernetes does: 2026-11-25T12:00:00Z."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


Moment = Annotated[AwareDatetime, PlainSerializer(timestamp, when_used="json")]
"""A UTC time with a resolution of one second, in Kubernetes' format."""


class Condition(ApiModel):
    """One aspect of an object's state. docs/operators.md lists all types and reasons."""

    type: str = Field(max_length=316)
    """The aspect, in CamelCase."""
    status: str = Field(pattern="^(True|False|Unknown)$")
    """True, False or Unknown."""
    reason: str = Field(max_length=1024)
    """Cause of the status, as one CamelCase word that programs can rely on."""
    message: str = Field(max_length=32768)
    """Cause of the status for people: what happened, where, and what to do."""
    last_transition_time: Moment
    """Time of the last change of the status."""
    observed_generation: int | None = None
    """Generation of the object that the condition describes."""


class Status(ApiModel):
    """Fields that the statuses of all kinds share."""

    observed_generation: int = 0
    """Generation of the object that this status describes."""
    phase: str = ""
    """Summary in one word."""
    conditions: list[Condition] = Field([])
    """Conditions with reasons and messages."""
