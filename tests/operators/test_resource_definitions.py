"""The definitions of the custom resources: generated from the models, with a description of every field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from operators import conditions
from operators.resources.crds import CHART, KINDS, Kind, definition, rendered
from operators.resources.structural import inlined, structural


def test_the_charts_definitions_are_current() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in CHART.glob("*.yaml")}
    assert committed == rendered(), "run `make crds`"


def fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, one in node.get("properties", {}).items():
        yield f"{path}.{name}", one
        yield from fields(one, f"{path}.{name}")
    if "items" in node:
        yield from fields(node["items"], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_field_is_described(kind: Kind) -> None:
    schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    undescribed = [path for path, one in fields(schema, kind.kind.lower()) if not one.get("description")]
    assert undescribed == [f"{kind.kind.lower()}.metadata"]  # Kubernetes' own


class Part(BaseModel):
    """A part."""

    size: int = Field(3, gt=0, lt=10)


class Whole(BaseModel):
    """A whole."""

    share: float = Field(0.5, gt=0, le=1)
    part: Part = Part()
    maybe: Part | None = None
    key: str | None = "K"
    names: dict[str, Part] = Field({})


def test_a_model_becomes_a_structural_schema() -> None:
    part = {"type": "object", "properties": {"size": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9}}}
    part["description"] = "A part."
    assert structural(inlined(Whole)) == {
        "type": "object",
        "description": "A whole.",
        "properties": {
            "share": {"type": "number", "default": 0.5, "minimum": 0, "exclusiveMinimum": True, "maximum": 1},
            "part": {**part, "default": {}},
            "maybe": part,
            "key": {"type": "string", "default": "K", "nullable": True},
            "names": {"type": "object", "default": {}, "additionalProperties": part},
        },
    }


class Limited(BaseModel):
    """A model."""

    whole: int = Field(3, gt=0, le=9, description="Whole.")
    share: float = Field(0.5, gt=0.25, lt=1, description="Share.")
    free: float = Field(2.0, description="Free.")
    word: str = Field("", description="Word.")


def test_limits_are_described_and_fractional_ones_are_rules() -> None:
    found = structural(inlined(Limited))["properties"]
    descriptions = {name: one["description"] for name, one in found.items()}
    assert descriptions == {
        "whole": "Whole. (1 to 9, default 3)",
        "share": "Share. (above 0.25, below 1, default 0.5)",
        "free": "Free. (default 2.0)",
        "word": "Word.",
    }
    assert found["share"]["x-kubernetes-validations"] == [{"rule": "self > 0.25", "message": "must be above 0.25"}]
    assert (found["share"]["maximum"], found["share"]["exclusiveMaximum"]) == (1, True)
    assert "minimum" not in found["share"]
    assert "x-kubernetes-validations" not in found["whole"]
    assert "(" not in structural(inlined(Limited), defaults=False)["properties"]["whole"]["description"]


def test_a_value_of_two_types_has_no_structural_schema() -> None:
    class Either(BaseModel):
        value: int | str

    with pytest.raises(TypeError, match="one type"):
        structural(inlined(Either))


def test_every_condition_and_reason_is_explained_and_the_page_is_current() -> None:
    for names, meanings in (
        (conditions.JobCondition, conditions.JOB_CONDITIONS),
        (conditions.JobReason, conditions.JOB_REASONS),
        (conditions.ServiceCondition, conditions.SERVICE_CONDITIONS),
        (conditions.ServiceReason, conditions.SERVICE_REASONS),
        (conditions.PolicyCondition, conditions.POLICY_CONDITIONS),
        (conditions.PolicyReason, conditions.POLICY_REASONS),
    ):
        assert set(meanings) == set(names)
    page = conditions.PAGE.read_text(encoding="utf-8")
    assert page == conditions.in_page(page), "run `make crds`"
