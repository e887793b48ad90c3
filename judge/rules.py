"""A judge by rules on words: no model, no cost, the same grades for the same answer everywhere.

Relevance is the overlap of an ad's words with the question and, with consent, the interests; nativeness is that of the
sentence around the ad, less what makes advertising read like it (as in the simulator's click model, but without its
encoder); quality asks whether the answer is on the question, long enough, and does not repeat itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from judge.grades import UNGRADED, AnswerToGrade, Grades
from mechanism.prose import PUSHY, carrier, runs
from mechanism.types import Ad, Answer

ENOUGH = 3
"""So many shared words are a full match."""
STEM = 4
LONG_ENOUGH = 40
"""Words of an answer that is not short."""
MOST_ADS = 3
TASTE = 0.6
PUSHED, OPENING, REPEATED, OVERLOADED, UNFINISHED = 0.25, 0.8, 0.6, 0.5, 0.7
_WORD = re.compile(r"\w{4,}")


class RuleJudge:
    """Implements `judge.grades.Judge`."""

    name = "rules"
    version = "1"

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        return [_grades(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to free."""


def _grades(given: AnswerToGrade) -> Grades:
    context, answer = given.context, given.answer
    if context is None or answer is None:
        return UNGRADED
    ads = {candidate.ad.id: candidate.ad for candidate in context.candidates}
    shown = [ads[ad_id] for ad_id in answer.shown()]
    asked = stems(context.query)
    tastes = stems(" ".join(context.profile.interests)) if context.profile else frozenset[str]()
    return Grades(
        {ad.id: _relevance(asked, tastes, ad) for ad in shown},
        {ad.id: _nativeness(asked, answer, ad) for ad in shown},
        _quality(asked, answer, given.finished),
    )


def _relevance(asked: frozenset[str], tastes: frozenset[str], ad: Ad) -> float:
    offered = stems(f"{ad.title} {ad.text} {ad.category}")
    return 1.0 - (1.0 - fit(asked, offered)) * (1.0 - TASTE * fit(tastes, offered))


def _nativeness(asked: frozenset[str], answer: Answer, ad: Ad) -> float:
    around = carrier(answer, ad)
    grade = 0.5 + 0.5 * fit(asked, stems(around.text))
    if PUSHY.search(around.text):
        grade = min(grade, PUSHED)
    return grade * (OPENING if around.opens else 1.0) * (REPEATED if around.echo > 0.5 else 1.0)


def _quality(asked: frozenset[str], answer: Answer, finished: bool) -> float:
    text = answer.struck(0, len(answer.text))
    words = len(text.split())
    own = runs(text)
    fresh = len(set(own)) / len(own) if own else 1.0
    grade = (0.5 * fit(asked, stems(text)) + 0.5 * min(1.0, words / LONG_ENOUGH)) * fresh
    distinct = len(answer.shown())
    if distinct > MOST_ADS or len(answer.insertions) > distinct:
        grade *= OVERLOADED
    return grade if finished else grade * UNFINISHED


@lru_cache(maxsize=20_000)
def stems(text: str) -> frozenset[str]:
    """The beginnings of the words of four letters and more: what inflection leaves alone, mostly."""
    return frozenset(word[:STEM] for word in _WORD.findall(text.casefold()))


def fit(these: frozenset[str], those: frozenset[str]) -> float:
    """How much two sets of words share, 0..1: all of the smaller one, or ENOUGH words, are a full match."""
    return min(1.0, len(these & those) / max(1, min(len(these), len(those), ENOUGH)))
