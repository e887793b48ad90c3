"""The prose of an answer: its sentences, its repetitions, and the sentence that carries an ad. No model is needed.

The click model, the judges, the pCTR features and the streamed links all cut text into sentences with these rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mechanism.types import Ad, Answer

SENTENCE: Final = re.compile(r"[^.!?\n]*[.!?\n]*\s*")
"""One sentence with the blanks after it; `finditer` covers a whole text."""
SENTENCE_BREAK: Final = re.compile(r"(?<=[.!?])\s+|\n+")
"""The gap between two sentences: blanks after a final mark, or line ends."""
SENTENCE_END: Final = re.compile(r"(?<=[.!?]\s)|(?<=\n)")
"""The position right after a finished sentence, for text that is still growing."""
PUSHY: Final = re.compile(
    r"!|\b(buy|order) (it |this |one )?(now|today)\b"
    r"|\b(hurry|must get|do(n't| not) miss|best deal|number one|on sale)\b",
    re.IGNORECASE,
)
"""Wording that reads like advertising."""

_WORD = re.compile(r"\w+")

Run = tuple[str, str, str]
"""Three neighbouring words."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """The sentence that carries an ad.

    `text` is the sentence with the titles of all ads replaced by "it"; `opens` is True if it opens the answer; `echo`
    is the share of its three-word runs that occur earlier in the answer, 0..1.
    """

    text: str
    opens: bool
    echo: float


def carrier(answer: Answer, ad: Ad) -> Carrier:
    """Return the sentence of the first insertion of `ad`."""
    first = next(i for i in answer.insertions if i.ad_id == ad.id)
    for match in SENTENCE.finditer(answer.text):
        if match.start() <= first.start < match.end():
            # The title may contain the mark that ended the match.
            sentence = answer.struck(match.start(), max(match.end(), first.end)).strip()
            return Carrier(sentence, match.start() == 0, echo(sentence, [answer.struck(0, match.start())]))
    return Carrier("it", True, 0.0)


def runs(text: str) -> list[Run]:
    """Return all runs of three neighbouring words, in order, ignoring case and punctuation."""
    words = _WORD.findall(text.casefold())
    return list(zip(words, words[1:], words[2:], strict=False))


def echo(sentence: str, earlier: Iterable[str]) -> float:
    """Return the share of a sentence's runs that occur in the earlier texts, 0..1; 0 for fewer than three words."""
    own = runs(sentence)
    known = {run for text in earlier for run in runs(text)}
    return sum(run in known for run in own) / len(own) if own else 0.0
