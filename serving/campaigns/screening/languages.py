"""Languages whose creatives a person has to read, because the phrases of screening are in others."""

from __future__ import annotations

import unicodedata

from serving.campaigns.screening.word_lists import word_list
from serving.lexicon import plain

_READ_SCRIPTS = ("LATIN", "CJK", "FULLWIDTH", "MASCULINE", "FEMININE", "MICRO")
LEAST_LETTERS, LEAST_WORDS = 3, 2


def is_unread(text: str) -> bool:
    """Whether a text is in a script, or surely in a language, that screening does not read."""
    letters = [unicodedata.name(c, "") for c in text if c.isalpha()]
    if sum(not name.startswith(_READ_SCRIPTS) for name in letters) >= LEAST_LETTERS:
        return True
    words = plain(text).split()
    unread = word_list("unread").intersection(words)
    return len(unread) >= LEAST_WORDS and len(unread) > sum(word in word_list("read") for word in words)
