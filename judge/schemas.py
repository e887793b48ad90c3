"""What the judge may answer, as pydantic models, and the JSON schemas that are sent along with a request.

On the wire click feedback is keyed by ad id: a schema with required keys is all that an endpoint with constrained
decoding needs to judge every shown ad once. A list of judgements, which unconstrained models tend to write, is read
too. Whether the ids are those of the shown ads is checked by `user_model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from mechanism.types import AdId

LOWEST, HIGHEST = 1, 5
"""Grades, as on a Likert scale: 1 not at all, 5 fully."""
MAX_REASON = 400
MAX_QUERY = 300

Grade = Annotated[int, Field(ge=LOWEST, le=HIGHEST, strict=True)]
GRADES = ("relevance", "nativeness", "answer_quality")


class Reply(BaseModel):
    """A judge's reply: immutable, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GeneratedQueries(Reply):
    """Questions that one user would ask."""

    queries: tuple[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY)], ...]

    @field_validator("queries")
    @classmethod
    def _distinct(cls, queries: tuple[str, ...]) -> tuple[str, ...]:
        if len({q.casefold() for q in queries}) != len(queries):
            raise ValueError("the queries must differ from each other")
        return queries


class AdClick(Reply):
    """Whether the user clicks one shown ad, and why."""

    ad_id: AdId
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_REASON)]
    clicked: Annotated[bool, Field(strict=True)]


class ClickFeedback(Reply):
    """The user's judgement of one answer: clicks by ad, and grades 1..5 for how well the ads fit question and user
    (`relevance`), how naturally they stand in the text (`nativeness`), and how good the answer is as an answer."""

    clicks: tuple[AdClick, ...]
    relevance: Grade
    nativeness: Grade
    answer_quality: Grade

    @field_validator("clicks", mode="before")
    @classmethod
    def _listed(cls, clicks: Any) -> Any:
        if not isinstance(clicks, dict):
            return clicks
        return [{"ad_id": k, **v} if isinstance(v, dict) and "ad_id" not in v else v for k, v in clicks.items()]

    def clicked(self) -> dict[AdId, bool]:
        """Click by ad id, in the order of judgement."""
        return {c.ad_id: c.clicked for c in self.clicks}


def unit_grade(grade: int) -> float:
    """A grade on [0, 1]: 1 -> 0, 5 -> 1."""
    return (grade - LOWEST) / (HIGHEST - LOWEST)


def queries_schema(n: int) -> dict[str, Any]:
    """JSON schema of exactly `n` distinct queries."""
    query = {"type": "string", "minLength": 1, "maxLength": MAX_QUERY}
    listed = {"type": "array", "items": query, "minItems": n, "maxItems": n, "uniqueItems": True}
    return _object({"queries": listed})


def feedback_schema(shown: Sequence[AdId]) -> dict[str, Any]:
    """JSON schema of feedback on exactly the `shown` ads; the reason comes before the decision it explains."""
    click = _object({"reason": {"type": "string", "maxLength": MAX_REASON}, "clicked": {"type": "boolean"}})
    grade = {"type": "integer", "minimum": LOWEST, "maximum": HIGHEST}
    return _object({"clicks": _object(dict.fromkeys(shown, click)), **dict.fromkeys(GRADES, grade)})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
