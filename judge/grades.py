"""The interface of all judges: the answer to grade, its grades, and the protocol. Clicks are counted elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mechanism.types import AdId, Answer, Context


@dataclass(frozen=True, slots=True)
class AnswerToGrade:
    """An answer as its reader saw it.

    `context` and `answer` are None if the reader gave no consent to keep them; `finished` is False if the policy was
    cut off before it ended the answer.
    """

    auction_id: str
    context: Context | None
    answer: Answer | None
    finished: bool


@dataclass(frozen=True, slots=True)
class Grades:
    """Grades within 0..1: relevance and nativeness by shown ad, and the quality of the answer.

    An answer that was not graded has no ads in the mappings and None as its quality.
    """

    relevance: Mapping[AdId, float] = field(default_factory=dict)
    nativeness: Mapping[AdId, float] = field(default_factory=dict)
    quality: float | None = None


UNGRADED = Grades()


class Judge(Protocol):
    """Grades answers. It never raises for an answer that it cannot grade, but returns UNGRADED."""

    @property
    def name(self) -> str:
        """The judge's name, recorded in every judgement."""
        ...

    @property
    def version(self) -> str:
        """A version that grows whenever the same answer may get other grades."""
        ...

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        """Return the grades of each answer, in order. A call takes seconds, a minute at most."""
        ...

    def close(self) -> None:
        """Release connections and other resources."""
        ...
