"""Inverted lists: from a code (a country, a category, an advertiser, a keyword) to the slots of campaigns that name it.

A list is a set while it changes and an array once it is read. Memory grows with what campaigns name, not with the
number of codes times campaigns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from serving.auction.eligibility.request import segment_code, words
from serving.campaigns.funds import account_of
from serving.campaigns.types import Campaign, Priority, normal

Slots = NDArray[np.int32]
Mask = NDArray[np.bool_]
Phrase = tuple[str, ...]
_NO_SLOTS: Slots = np.empty(0, np.int32)


class Postings:
    """Slots by code."""

    def __init__(self) -> None:
        self._sets: dict[str, set[int]] = {}
        self._arrays: dict[str, Slots] = {}

    def add(self, code: str, slot: int) -> None:
        """Add the slot to the code's list."""
        self._sets.setdefault(code, set()).add(slot)
        self._arrays.pop(code, None)

    def discard(self, code: str, slot: int) -> None:
        """Remove the slot from the code's list, and the list when it is empty."""
        slots = self._sets.get(code)
        if slots is None:
            return
        slots.discard(slot)
        self._arrays.pop(code, None)
        if not slots:
            del self._sets[code]

    def members(self, codes: Iterable[str], slots: Slots | None, size: int) -> Mask:
        """Return which of `slots`, or of the first `size` if that is None, are under one of the codes."""
        if slots is None:
            found = np.zeros(size, np.bool_)
            for code in codes:
                found[self.slots(code)] = True
            return found
        found = np.zeros(len(slots), np.bool_)
        for code in codes:
            listed = self.slots(code)
            if listed.size:
                found |= listed[np.minimum(np.searchsorted(listed, slots), listed.size - 1)] == slots
        return found

    def slots(self, code: str) -> Slots:
        """Return the slots under a code, sorted."""
        found = self._arrays.get(code)
        if found is None:
            slots = self._sets.get(code)
            if slots is None:
                return _NO_SLOTS
            found = self._arrays[code] = np.sort(np.fromiter(slots, np.int32, len(slots)))
        return found


class KeywordPostings:
    """Slots by keyword: one or more words that occur in a query next to each other."""

    def __init__(self) -> None:
        self._postings = Postings()
        self._by_first: dict[str, dict[Phrase, set[int]]] = {}

    def add(self, phrase: Phrase, slot: int) -> None:
        """Add the slot to the keyword's list; a keyword without words matches nothing."""
        if phrase:
            self._postings.add(" ".join(phrase), slot)
            self._by_first.setdefault(phrase[0], {}).setdefault(phrase, set()).add(slot)

    def discard(self, phrase: Phrase, slot: int) -> None:
        """Remove the slot from the keyword's list."""
        phrases = self._by_first.get(phrase[0], {}) if phrase else {}
        if phrase in phrases:
            self._postings.discard(" ".join(phrase), slot)
            phrases[phrase].discard(slot)
            if not phrases[phrase]:
                del phrases[phrase]
            if not phrases:
                del self._by_first[phrase[0]]

    def slots(self, query_words: Phrase) -> list[Slots]:
        """Return the slots with a keyword in the query, by keyword."""
        return [self._postings.slots(code) for code in sorted(self._matches(query_words))]

    def _matches(self, query_words: Phrase) -> set[str]:
        found: set[str] = set()
        for first in self._by_first.keys() & set(query_words):
            for phrase in self._by_first[first]:
                length = len(phrase)
                starts = (i for i, word in enumerate(query_words) if word == first)
                if length == 1 or any(query_words[i : i + length] == phrase for i in starts):
                    found.add(" ".join(phrase))
        return found


class CampaignPostings:
    """All lists of the campaigns: what they target, what they block, what blocks of others may name, and who pays.

    `of_account` is by `Account.key`, `of_priority` lists the campaigns that are not standard.
    """

    def __init__(self) -> None:
        self.targets = {dimension: Postings() for dimension in ("country", "language", "category", "placement")}
        self.keywords = KeywordPostings()
        self.blocking_category, self.blocking_placement = Postings(), Postings()
        self.in_category, self.of_advertiser = Postings(), Postings()
        self.of_account, self.of_priority = Postings(), Postings()

    def add(self, campaign: Campaign, slot: int) -> None:
        """Add the slot to every list that the campaign belongs on."""
        for postings, code in self._entries(campaign):
            postings.add(code, slot)
        for keyword in campaign.targeting.keywords:
            self.keywords.add(words(keyword), slot)

    def discard(self, campaign: Campaign, slot: int) -> None:
        """Remove the slot from the lists of the campaign as it was added."""
        for postings, code in self._entries(campaign):
            postings.discard(code, slot)
        for keyword in campaign.targeting.keywords:
            self.keywords.discard(words(keyword), slot)

    def _entries(self, campaign: Campaign) -> Iterator[tuple[Postings, str]]:
        target = campaign.targeting
        for dimension, values in (
            ("country", target.countries),
            ("language", target.languages),
            ("category", target.categories),
            ("placement", target.placements),
        ):
            yield from ((self.targets[dimension], segment_code(dimension, value)) for value in values)
        yield from ((self.blocking_category, normal(value)) for value in campaign.block_categories)
        yield from ((self.blocking_placement, normal(value)) for value in campaign.block_placements)
        yield self.in_category, normal(campaign.category)
        yield self.of_advertiser, normal(campaign.advertiser_id)
        yield self.of_account, account_of(campaign).key
        if campaign.priority is not Priority.STANDARD:
            yield self.of_priority, campaign.priority
