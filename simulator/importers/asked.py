"""Queries collected over many rows: equal ones become one, with all their labels and answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from mechanism.sanitize import clean_query
from mechanism.types import AdId
from simulator.importers.dataset import ImportedAnswer, ImportedQuery, ReportBuilder, match_key
from simulator.importers.rows import Row

Key = tuple[str, str]
"""The `match_key` of a query and its topic."""


@dataclass(slots=True)
class _Entry:
    text: str
    relevant: dict[AdId, None] = field(default_factory=dict)
    answers: dict[ImportedAnswer, None] = field(default_factory=dict)


@dataclass(slots=True)
class AskedQueries:
    """Queries by text and topic, in the order of their first row."""

    _entries: dict[Key, _Entry] = field(default_factory=dict)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def add(self, text: str, topic: str) -> Key:
        """Add a query, unless an equal one is there, and return its key."""
        key = (match_key(text), topic)
        self._entries.setdefault(key, _Entry(text))
        return key

    def label(self, key: Key, ad: AdId) -> None:
        """Label an ad as relevant to a query."""
        self._entries[key].relevant[ad] = None

    def answer(self, key: Key, answer: ImportedAnswer) -> None:
        """Add an answer to a query."""
        self._entries[key].answers[answer] = None

    def build(self) -> tuple[ImportedQuery, ...]:
        """Return the queries; the answers of each are in descending order of score."""
        return tuple(
            ImportedQuery(e.text, topic, tuple(e.relevant), answers=tuple(sorted(e.answers, key=lambda a: -a.score)))
            for (_, topic), e in self._entries.items()
        )


def query_text(row: Row, column: str) -> str:
    """Return the clean query of a row; InputError at the column if it is no text, is empty or too long."""
    return clean_query(row.text(column), column)


def note_query(row: Row, column: str, text: str, report: ReportBuilder) -> None:
    """Report a query that the import changed."""
    given = row.text(column).strip()
    if given != text:
        report.repair(row.issue(column, given, f"is written {text!r}"))
