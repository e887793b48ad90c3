"""What a judge says about an answer, and what a judge is. Clicks are not its business: those were counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mechanism.types import AdId, Answer, Insertion
from streaming.events import Interaction


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

    def grade(self, interactions: Sequence[Interaction]) -> list[Grades]:
        """Grades of each. Takes seconds, a minute at most."""
        ...

    def close(self) -> None:
        """Frees what it holds."""
        ...


def answer_of(interaction: Interaction) -> Answer | None:
    """What the reader saw, finished or not; None where their part is not there."""
    if (reader := interaction.reader) is None:
        return None
    return Answer(reader.raw, reader.text, tuple(Insertion(s.ad_id, s.start, s.end) for s in reader.spans))
