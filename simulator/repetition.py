"""How much a text repeats: three-word runs that occur again. A cheap measure that needs no model."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+")

Run = tuple[str, str, str]


def runs(text: str) -> list[Run]:
    """Every three neighbouring words of a text, in order, without regard to case and punctuation."""
    words = _WORD.findall(text.casefold())
    return list(zip(words, words[1:], words[2:], strict=False))


def echo(sentence: str, earlier: Iterable[str]) -> float:
    """Share of a sentence's runs that stand in an earlier text already, 0..1; 0 for fewer than three words."""
    own = runs(sentence)
    known = {run for text in earlier for run in runs(text)}
    return sum(run in known for run in own) / len(own) if own else 0.0
