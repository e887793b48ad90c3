"""What an import yields: ads, queries with their relevance labels, and a report that accounts for every row.

Every row of a file is either accepted or reported. Which spellings name the same ad, which queries are equal, and the
train/test split are decided here, for every importer. Bids and users are not part of such data:
`simulator.imported_world` adds them. Reading files is left to `rows`, what makes a row valid to each importer.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mechanism.errors import InputError
from mechanism.types import Ad, AdId

NAMED_IN_ERROR = 5
_TYPOGRAPHY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})


@dataclass(frozen=True, slots=True)
class RowIssue:
    """One row at `file`:`line` (from 1): the invalid `field`, its `value`, and the remedy."""

    file: str
    line: int
    field: str
    value: str
    remedy: str

    def __str__(self) -> str:
        value = repr(self.value)
        shown = value if len(value) <= 80 else value[:77] + "..."
        return f"{self.file}:{self.line} {self.field}: {shown}: {self.remedy}"


@dataclass(frozen=True, slots=True)
class FileCount:
    """Rows of one file, its header not counted: read = accepted + reported."""

    read: int
    accepted: int
    reported: int


@dataclass(frozen=True, slots=True)
class ImportReport:
    """`issues`: one per refused row. `repairs`: accepted rows whose content was changed, and ignored columns."""

    files: Mapping[str, FileCount]
    issues: tuple[RowIssue, ...]
    repairs: tuple[RowIssue, ...] = ()

    @property
    def read(self) -> int:
        """Rows read from all files."""
        return sum(count.read for count in self.files.values())

    @property
    def accepted(self) -> int:
        """Rows that are part of the imported data."""
        return sum(count.accepted for count in self.files.values())

    def refuse_issues(self, place: str) -> None:
        """Refuse the import if a row was refused (the `strict` mode of an importer).

        Raises:
            InputError: with a summary of the refused rows.
        """
        if not self.issues:
            return
        first = "; ".join(str(issue) for issue in self.issues[:NAMED_IN_ERROR])
        more = len(self.issues) - NAMED_IN_ERROR
        tail = f"; and {more} more" if more > 0 else ""
        count = f"{len(self.issues)} of {self.read} rows refused"
        raise InputError(place, count, f"correct them or import without strict: {first}{tail}")


@dataclass(slots=True)
class ReportBuilder:
    """Collects the report of an import; exactly one of `accept` and `refuse` is called for each row read."""

    _read: dict[str, int] = field(default_factory=dict)
    _accepted: dict[str, int] = field(default_factory=dict)
    _issues: list[RowIssue] = field(default_factory=list)
    _repairs: list[RowIssue] = field(default_factory=list)

    def open(self, file: str) -> None:
        """Add a file, so that it is in the report even when it has no row."""
        self._read.setdefault(file, 0)
        self._accepted.setdefault(file, 0)

    def read(self, file: str) -> None:
        """Count one row read."""
        self._read[file] += 1

    def accept(self, file: str) -> None:
        """Count one row as part of the data."""
        self._accepted[file] += 1

    def refuse(self, issue: RowIssue) -> None:
        """Report the row of `issue` as refused."""
        self._issues.append(issue)

    def repair(self, note: RowIssue) -> None:
        """Report a change to a row that is accepted."""
        self._repairs.append(note)

    def build(self) -> ImportReport:
        """Return the finished report.

        Raises:
            RuntimeError: if a row was neither accepted nor refused exactly once, a defect of the importer.
        """
        reported = dict.fromkeys(self._read, 0)
        for issue in self._issues:
            reported[issue.file] += 1
        files = {f: FileCount(n, self._accepted[f], reported[f]) for f, n in self._read.items()}
        lost = [f for f, count in files.items() if count.read != count.accepted + count.reported]
        if lost:
            raise RuntimeError(f"rows of {lost} were neither accepted nor reported exactly once: correct the importer")
        return ImportReport(files, tuple(self._issues), tuple(self._repairs))


@dataclass(frozen=True, slots=True)
class ImportedAnswer:
    """An answer that a data set holds: raw text, with the marker of `ad` in place of its name; None: without an ad.

    `score` is the data set's own rating; answers without one have 0.
    """

    text: str
    ad: AdId | None = None
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class ImportedQuery:
    """A real query, its topic (an ad category), the ads labelled as relevant, and the user's profile id if given.

    `answers` are those that the data set holds, best first.
    """

    text: str
    topic: str
    relevant: tuple[AdId, ...] = ()
    profile: str = ""
    answers: tuple[ImportedAnswer, ...] = ()

    @property
    def id(self) -> str:
        """A digest of topic, text and profile, independent of file and order."""
        return "q-" + digest(self.topic, self.text, self.profile)[:12]


@dataclass(frozen=True, slots=True)
class ImportedData:
    """Ads and queries in file order, and the report on every row."""

    ads: tuple[Ad, ...]
    queries: tuple[ImportedQuery, ...]
    report: ImportReport


def match_key(text: str) -> str:
    """Return the key by which spellings match: case, blanks, compatibility forms and typographic quotes are ignored."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_TYPOGRAPHY).casefold().split())


def split_queries(
    queries: Iterable[ImportedQuery], test_share: float = 0.2, salt: str = "split-1"
) -> tuple[tuple[ImportedQuery, ...], tuple[ImportedQuery, ...]]:
    """Split queries into (train, test) by a hash of their text; `test_share` is the expected share of test texts.

    No query moves when others are added, and a text that occurs under two topics or users falls on one side.

    Raises:
        InputError: if `test_share` is outside [0, 1].
    """
    if not 0.0 <= test_share <= 1.0:
        raise InputError("test_share", test_share, "give a share between 0 and 1")
    sides: tuple[list[ImportedQuery], list[ImportedQuery]] = ([], [])
    for query in queries:
        fraction = int(digest(salt, match_key(query.text))[:12], 16) / 16**12
        sides[fraction < test_share].append(query)
    return tuple(sides[0]), tuple(sides[1])


def digest(*parts: str) -> str:
    """Return the SHA-256 of some texts, in hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def same_title(ads: Sequence[Ad]) -> dict[str, Ad]:
    """Return the first ad of each title, by `match_key`."""
    first: dict[str, Ad] = {}
    for ad in ads:
        first.setdefault(match_key(ad.title), ad)
    return first
