"""Inverted lists from a code (a country, a category, an advertiser, a keyword) to the campaigns that name it.

Campaigns are slots: small whole numbers given out by the index. A list is a set while it changes and an array once it
is read; memory grows with what campaigns name, not with codes times campaigns.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int32]
Mask = NDArray[np.bool_]
EMPTY: Slots = np.empty(0, np.int32)


class Postings:
    """Slots by code."""

    def __init__(self) -> None:
        self._sets: dict[str, set[int]] = {}
        self._arrays: dict[str, Slots] = {}

    def add(self, code: str, slot: int) -> None:
        """Puts the slot on the code's list."""
        self._sets.setdefault(code, set()).add(slot)
        self._arrays.pop(code, None)

    def discard(self, code: str, slot: int) -> None:
        """Takes the slot off the code's list; a list without slots goes."""
        slots = self._sets.get(code)
        if slots is None:
            return
        slots.discard(slot)
        self._arrays.pop(code, None)
        if not slots:
            del self._sets[code]

    def get(self, code: str) -> Slots:
        """The slots under the code, in no particular order."""
        found = self._arrays.get(code)
        if found is None:
            slots = self._sets.get(code)
            if slots is None:
                return EMPTY
            found = self._arrays[code] = np.fromiter(slots, np.int32, len(slots))
        return found

    def admit(self, codes: Iterable[str], mask: Mask) -> Mask:
        """`mask` with True at every slot under one of the codes; a new array."""
        admitted = mask.copy()
        for code in codes:
            admitted[self.get(code)] = True
        return admitted

    def exclude(self, codes: Iterable[str], size: int) -> Mask | None:
        """False at every slot under one of the codes and True elsewhere, shape (size,); None where nobody is."""
        excluded: Mask | None = None
        for code in codes:
            slots = self.get(code)
            if slots.size:
                if excluded is None:
                    excluded = np.ones(size, np.bool_)
                excluded[slots] = False
        return excluded


Phrase = tuple[str, ...]


class KeywordPostings:
    """Slots by keyword, a keyword being one or more words that must follow each other in a query."""

    def __init__(self) -> None:
        self._postings = Postings()
        self._by_first: dict[str, dict[Phrase, set[int]]] = {}

    def add(self, phrase: Phrase, slot: int) -> None:
        """Puts the slot on the keyword's list; a keyword without a word matches nothing."""
        if phrase:
            self._postings.add(" ".join(phrase), slot)
            self._by_first.setdefault(phrase[0], {}).setdefault(phrase, set()).add(slot)

    def discard(self, phrase: Phrase, slot: int) -> None:
        """Takes the slot off the keyword's list."""
        phrases = self._by_first.get(phrase[0], {}) if phrase else {}
        if phrase in phrases:
            self._postings.discard(" ".join(phrase), slot)
            phrases[phrase].discard(slot)
            if not phrases[phrase]:
                del phrases[phrase]
            if not phrases:
                del self._by_first[phrase[0]]

    def admit(self, query_words: Phrase, mask: Mask) -> Mask:
        """`mask` with True at every slot with a keyword in the query; a new array."""
        return self._postings.admit(self._matches(query_words), mask)

    def _matches(self, query_words: Phrase) -> set[str]:
        found: set[str] = set()
        for first in self._by_first.keys() & set(query_words):
            for phrase in self._by_first[first]:
                length = len(phrase)
                starts = (i for i, word in enumerate(query_words) if word == first)
                if length == 1 or any(query_words[i : i + length] == phrase for i in starts):
                    found.add(" ".join(phrase))
        return found
