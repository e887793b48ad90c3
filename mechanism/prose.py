"""The prose of an answer: its sentences, what repeats, and the sentence that carries an ad. Pure text; no model.

The one place where text is cut into sentences: for the click model, judges, pCTR features and the reader's side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mechanism.types import Ad, Answer

SENTENCE: Final = re.compile(r"[^.!?\n]*[.!?\n]*\s*")
"""One sentence with the blanks behind it; finds a whole text piece by piece."""
SENTENCE_BREAK: Final = re.compile(r"(?<=[.!?])\s+|\n+")
"""What stands between two sentences: blanks after a final mark, or line ends."""
SENTENCE_END: Final = re.compile(r"(?<=[.!?]\s)|(?<=\n)")
"""The place right after a finished sentence, for text that still grows."""
PUSHY: Final = re.compile(
    r"!|\b(buy|order) (it |this |one )?(now|today)\b"
    r"|\b(hurry|must get|do(n't| not) miss|best deal|number one|on sale)\b",
    re.IGNORECASE,
)
"""Wording that reads like advertising."""

_WORD = re.compile(r"\w+")

Run = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Carrier:
    """The sentence that carries an ad.

    `text` has all titles struck out; `opens` says whether the sentence opens the answer; `echo` is the share of its
    three-word runs that occur earlier in the answer, 0..1.
    """

    text: str
    opens: bool
    echo: float


def carrier(answer: Answer, ad: Ad) -> Carrier:
    """Return the sentence that first carries `ad`, with the titles of all ads struck out here and before."""
    first = next(i for i in answer.insertions if i.ad_id == ad.id)
    for match in SENTENCE.finditer(answer.text):
        if match.start() <= first.start < match.end():
            # A title may hold the sign that ended the match.
            sentence = answer.struck(match.start(), max(match.end(), first.end)).strip()
            return Carrier(sentence, match.start() == 0, echo(sentence, [answer.struck(0, match.start())]))
    return Carrier("it", True, 0.0)


def runs(text: str) -> list[Run]:
    """Return every three neighbouring words of a text, in order, without regard to case and punctuation."""
    words = _WORD.findall(text.casefold())
    return list(zip(words, words[1:], words[2:], strict=False))


def echo(sentence: str, earlier: Iterable[str]) -> float:
    """Return the share of a sentence's runs that occur in an earlier text, 0..1; 0 for fewer than three words."""
    own = runs(sentence)
    known = {run for text in earlier for run in runs(text)}
    return sum(run in known for run in own) / len(own) if own else 0.0
