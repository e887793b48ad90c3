"""What an import yields: ads, queries with their relevance labels, and the report.

Identity of texts (which spelling names which ad, which queries are one) and the train/test split are decided here,
for every importer. Bids and users are not part of such data: `simulator.imported_world` adds them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mechanism.errors import InputError
from mechanism.types import Ad, AdId
from simulator.importers.report import ImportReport

_TYPOGRAPHY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})


@dataclass(frozen=True, slots=True)
class ImportedQuery:
    """A real query, its topic (an ad category), the ads labelled as fitting it, and the user's profile id if given."""

    text: str
    topic: str
    relevant: tuple[AdId, ...] = ()
    profile: str = ""

    @property
    def id(self) -> str:
        """Stable over files and order: a digest of topic, text and profile."""
        return "q-" + _digest(self.topic, self.text, self.profile)[:12]


@dataclass(frozen=True, slots=True)
class ImportedData:
    """Ads and queries in file order, and what happened to every row."""

    ads: tuple[Ad, ...]
    queries: tuple[ImportedQuery, ...]
    report: ImportReport


def match_key(text: str) -> str:
    """Spellings with one key are one: case, blanks, compatibility forms and typographic quotes do not count."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY).casefold().split())


def split_queries(
    queries: Iterable[ImportedQuery], test_share: float = 0.2, salt: str = "split-1"
) -> tuple[tuple[ImportedQuery, ...], tuple[ImportedQuery, ...]]:
    """(train, test) by a hash of the query's text: no query moves when others are added, and a text that occurs
    under two topics or users falls on one side. `test_share` in [0, 1] is the expected share of test texts."""
    if not 0.0 <= test_share <= 1.0:
        raise InputError("test_share", test_share, "give a share between 0 and 1")
    sides: tuple[list[ImportedQuery], list[ImportedQuery]] = ([], [])
    for query in queries:
        fraction = int(_digest(salt, match_key(query.text))[:12], 16) / 16**12
        sides[fraction < test_share].append(query)
    return tuple(sides[0]), tuple(sides[1])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def same_title(ads: Sequence[Ad]) -> dict[str, Ad]:
    """The first ad of each title, by `match_key`."""
    first: dict[str, Ad] = {}
    for ad in ads:
        first.setdefault(match_key(ad.title), ad)
    return first
