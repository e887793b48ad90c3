"""What all models of resources share: Kubernetes' spelling, strict fields, and how rules for the API server are noted.

How a model becomes a schema of Kubernetes' is `operators.resources.structural`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "llm-auction.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class ApiModel(BaseModel):
    """Base of all parts of a resource: camelCase in the API, unknown names are errors, values are fixed once read.

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

    def to_api(self) -> dict[str, Any]:
        """As the API server keeps it: camelCase, and what is unset left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def rule(expression: str, message: str) -> dict[str, str]:
    """A rule in the Common Expression Language that the API server checks; `message` says what to do."""
    return {"rule": expression, "message": message}


def checked(*rules: dict[str, str]) -> ConfigDict:
    """The `model_config` of a model for which rules hold."""
    noted: list[JsonValue] = [{**one} for one in rules]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": noted})


def checked_value(longest: int, *rules: dict[str, str]) -> WithJsonSchema:
    """The same for a single string, in place of a pattern, which the API server prints without a word of advice."""
    noted = [{**one} for one in rules]
    return WithJsonSchema({"type": "string", "maxLength": longest, "x-kubernetes-validations": noted})


def immutable(names: Iterable[str], optional: Iterable[str] = ()) -> tuple[dict[str, str], ...]:
    """Rules for the fields of an object that stay as they were made. `optional` ones may be missing, and stay so."""
    why = "is immutable: make a new object"
    always = [rule(f"self.{name} == oldSelf.{name}", f"{name} {why}") for name in names]
    maybe = [
        rule(
            f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})",
            f"{name} {why}",
        )
        for name in optional
    ]
    return (*always, *maybe)


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
"""An amount as Kubernetes writes it: 4, 500m, 64Gi."""

Name = Annotated[str, Field(min_length=1, max_length=253)]
"""The name of another object."""


def _zulu(moment: AwareDatetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


Moment = Annotated[AwareDatetime, PlainSerializer(_zulu, when_used="json")]
"""A moment in UTC, to the second, as Kubernetes writes it."""


class Condition(ApiModel):
    """One thing that is true, false or unknown of an object; all types and reasons are in docs/operators.md."""

    type: str = Field(max_length=316)
    """What is said, in CamelCase."""
    status: str = Field(pattern="^(True|False|Unknown)$")
    """True, False or Unknown."""
    reason: str = Field(max_length=1024)
    """Why, in one CamelCase word that programs may rely on."""
    message: str = Field(max_length=32768)
    """Why, for people: what happened, where, and what to do."""
    last_transition_time: Moment
    """Since when the status has been what it is."""
    observed_generation: int | None = None
    """The generation of the object that this was said of."""
