"""What a judge is given, what it returns, and the protocol of all judges. Clicks are counted elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mechanism.types import AdId, Answer, Context


@dataclass(frozen=True, slots=True)
class AnswerToGrade:
    """An answer as its reader saw it. `context` and `answer` are None where the reader gave no consent to keep them;
    `finished` says whether the policy ended the answer itself."""

    auction_id: str
    context: Context | None
    answer: Answer | None
    finished: bool


@dataclass(frozen=True, slots=True)
class Grades:
    """Within 0..1; None or missing where the judge was not asked, or could not say."""

    relevance: Mapping[AdId, float] = field(default_factory=dict)
    nativeness: Mapping[AdId, float] = field(default_factory=dict)
    quality: float | None = None


UNGRADED = Grades()


class Judge(Protocol):
    """Grades answers. It never raises for an answer that it cannot grade: that one is UNGRADED."""

    @property
    def name(self) -> str:
        """In every judgement."""
        ...

    @property
    def version(self) -> str:
        """Grows whenever the same answer may be graded otherwise."""
        ...

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        """Grades of each. Takes seconds, a minute at most."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...
