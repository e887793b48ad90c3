"""The placement request: what an auction knows of the reader, the conversation and the place, normalised once.

The HTTP side builds it. None of it is logged; the query and the user id stay out of `repr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from mechanism.errors import InputError
from mechanism.types import AdId, Micros
from serving.campaigns.types import normal

_WORD = re.compile(r"\w+")


def segment_code(dimension: str, value: str) -> str:
    """Return the form in which values of a targeting dimension are compared.

    Languages may be written with "_" or "-".
    """
    return normal(value).replace("_", "-") if dimension == "language" else normal(value)


def words(text: str) -> tuple[str, ...]:
    """Split a text into case-folded words: runs of letters, digits and underscores."""
    return tuple(_WORD.findall(text.casefold()))


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """One request for ads. An empty string means unknown, which no targeted campaign admits.

    `user_id` is the caller's name for the reader: used only with `consent`, and then hashed by
    `serving.auction.frequency`. `publisher_*` are exclusions of the site, `user_*` those of the reader. `floor_micros`
    is the lowest bid, in `currency`; `floor_missing` means that the placement has floors in other currencies alone.
    `tmax_ms` is the caller's deadline, None for the router's own. `now` has a UTC
    offset.

    Raises:
        InputError: if `now` has no offset, or `floor_micros` or `max_ads` is negative.
    """

    auction_id: str
    now: datetime
    currency: str
    country: str = ""
    language: str = ""
    category: str = ""
    placement: str = ""
    query: str = field(default="", repr=False)
    user_id: str | None = field(default=None, repr=False)
    consent: bool = False
    publisher_blocked_categories: frozenset[str] = frozenset()
    publisher_blocked_advertisers: frozenset[str] = frozenset()
    user_blocked_categories: frozenset[str] = frozenset()
    user_blocked_advertisers: frozenset[str] = frozenset()
    floor_micros: Micros = 0
    floor_missing: bool = False
    max_ads: int = 3
    tmax_ms: int | None = None
    segments: Mapping[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    """By dimension: the codes of this request. Targeting that names one of them admits it; empty where unknown."""
    query_words: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise InputError("now", self.now.isoformat(), "give a time with its offset, such as UTC")
        if self.floor_micros < 0:
            raise InputError("floor_micros", self.floor_micros, "give a whole number of micros >= 0")
        if self.max_ads < 0:
            raise InputError("max_ads", self.max_ads, "give a whole number >= 0")
        language = segment_code("language", self.language)
        segments = {
            "country": (normal(self.country),),
            "language": tuple(dict.fromkeys((language, language.partition("-")[0]))),
            "category": (normal(self.category),),
            "placement": (normal(self.placement),),
        }
        object.__setattr__(self, "segments", {d: tuple(v for v in codes if v) for d, codes in segments.items()})
        object.__setattr__(self, "query_words", words(self.query))
        for name in _BLOCK_LISTS:
            object.__setattr__(self, name, frozenset(map(normal, getattr(self, name))) - {""})


_BLOCK_LISTS = (
    "publisher_blocked_categories",
    "publisher_blocked_advertisers",
    "user_blocked_categories",
    "user_blocked_advertisers",
)


@dataclass(frozen=True, slots=True)
class ReachedCaps:
    """The frequency caps that one reader has reached, as ids of campaigns and creatives.

    `countable` is False where the reader's impressions cannot be counted.
    """

    countable: bool = False
    campaigns: frozenset[str] = frozenset()
    creatives: frozenset[AdId] = frozenset()


UNCOUNTED = ReachedCaps()
"""For a request without consent or without a user id."""
