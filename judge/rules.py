"""A judge by rules on words: no model, no cost, and the same grades for the same answer on every machine.

Relevance is the overlap of an ad's words with the query and, with consent, the user's interests. Nativeness is the
overlap of the ad's sentence with the query, reduced if the sentence reads like advertising (as in the simulator's click
model, but without its encoder). Quality grades whether the answer fits the query, is long enough, and does not repeat
itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from judge.grades import UNGRADED, AnswerToGrade, Grades
from mechanism.prose import PUSHY, carrier, runs
from mechanism.types import Ad, Answer

FULL_OVERLAP = 3
"""Number of shared words that counts as full overlap."""
STEM_LETTERS = 4
LONG_ENOUGH = 40
"""Number of words from which an answer counts as long enough."""
MAX_ADS = 3
"""Most ads of an answer that does not count as overloaded."""
INTEREST_WEIGHT = 0.6
"""Weight of the interests in the relevance, beside 1 for the query."""
PUSHY_CAP = 0.25
"""Highest nativeness of an ad in a pushy sentence."""
OPENING_FACTOR, ECHO_FACTOR, OVERLOAD_FACTOR, UNFINISHED_FACTOR = 0.8, 0.6, 0.5, 0.7
_WORD = re.compile(r"\w{4,}")


class RuleJudge:
    """Implements `judge.grades.Judge`."""

    name = "rules"
    version = "1"

    def grade(self, answers: Sequence[AnswerToGrade]) -> list[Grades]:
        return [_grades(answer) for answer in answers]

    def close(self) -> None:
        pass


def _grades(item: AnswerToGrade) -> Grades:
    context, answer = item.context, item.answer
    if context is None or answer is None:
        return UNGRADED
    ads = {candidate.ad.id: candidate.ad for candidate in context.candidates}
    shown = [ads[ad_id] for ad_id in answer.shown()]
    query = stems(context.query)
    interests = stems(" ".join(context.profile.interests)) if context.profile else frozenset[str]()
    return Grades(
        {ad.id: _relevance(query, interests, ad) for ad in shown},
        {ad.id: _nativeness(query, answer, ad) for ad in shown},
        _quality(query, answer, item.finished),
    )


def _relevance(query: frozenset[str], interests: frozenset[str], ad: Ad) -> float:
    offer = stems(f"{ad.title} {ad.text} {ad.category}")
    return 1.0 - (1.0 - overlap(query, offer)) * (1.0 - INTEREST_WEIGHT * overlap(interests, offer))


def _nativeness(query: frozenset[str], answer: Answer, ad: Ad) -> float:
    sentence = carrier(answer, ad)
    grade = 0.5 + 0.5 * overlap(query, stems(sentence.text))
    if PUSHY.search(sentence.text):
        grade = min(grade, PUSHY_CAP)
    return grade * (OPENING_FACTOR if sentence.opens else 1.0) * (ECHO_FACTOR if sentence.echo > 0.5 else 1.0)


def _quality(query: frozenset[str], answer: Answer, finished: bool) -> float:
    text = answer.struck(0, len(answer.text))
    words = len(text.split())
    all_runs = runs(text)
    distinct_runs = len(set(all_runs)) / len(all_runs) if all_runs else 1.0
    grade = (0.5 * overlap(query, stems(text)) + 0.5 * min(1.0, words / LONG_ENOUGH)) * distinct_runs
    distinct = len(answer.shown())
    if distinct > MAX_ADS or len(answer.insertions) > distinct:
        grade *= OVERLOAD_FACTOR
    return grade if finished else grade * UNFINISHED_FACTOR


@lru_cache(maxsize=20_000)
def stems(text: str) -> frozenset[str]:
    """Return the first letters of all words of four letters and more, which inflection mostly leaves unchanged."""
    return frozenset(word[:STEM_LETTERS] for word in _WORD.findall(text.casefold()))


def overlap(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the overlap of two sets of words, 0..1: 1 if they share FULL_OVERLAP words or the whole smaller set."""
    return min(1.0, len(left & right) / max(1, min(len(left), len(right), FULL_OVERLAP)))
