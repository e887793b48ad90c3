"""Importer for plain catalogues and query lists, as CSV with a header or JSONL, by the file's ending.

Catalogue: id, title, text [, advertiser, category, landing_url]. Queries: query [, profile, category, relevant], where
`relevant` lists ad ids, separated by `|` in CSV and as a list in JSONL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mechanism.errors import InputError
from mechanism.types import Ad, AdId
from simulator.importers.asked import note_query, query_text
from simulator.importers.creatives import clean_creative, note_changes
from simulator.importers.dataset import ImportedData, ImportedQuery, ReportBuilder, match_key
from simulator.importers.rows import Row, csv_rows, jsonl_rows

CATALOGUE = ("id", "title", "text"), ("advertiser", "category", "landing_url")
COLUMNS = {field: field for field in ("title", "text", "advertiser", "category")}
QUERIES = ("query",), ("profile", "category", "relevant")
SEPARATOR = "|"

_Reader = Callable[[Path, Sequence[str], Sequence[str], ReportBuilder], Iterator[Row]]
_READERS: Mapping[str, _Reader] = {".csv": csv_rows, ".jsonl": jsonl_rows, ".ndjson": jsonl_rows}


def load_tables(catalogue: Path | str, queries: Path | str | None = None, *, strict: bool = False) -> ImportedData:
    """Read a catalogue and, if given, a list of queries.

    InputError for an unreadable file, an unknown ending, a wrong CSV header, or (`strict`) any refused row; without
    `strict` the refused rows are in the report. The advertiser of an ad that names none is the ad's title.
    """
    report = ReportBuilder()
    ads = _read_catalogue(Path(catalogue), report)
    asked = _read_queries(Path(queries), {ad.id for ad in ads}, report) if queries is not None else []
    finished = report.build()
    if strict:
        finished.refuse_issues(str(catalogue) if queries is None else f"{catalogue}, {queries}")
    return ImportedData(tuple(ads), tuple(asked), finished)


def _rows(path: Path, columns: tuple[Sequence[str], Sequence[str]], report: ReportBuilder) -> Iterator[Row]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(str(path), path.suffix, f"give a file that ends in {', '.join(_READERS)}")
    return reader(path, *columns, report)


def _read_catalogue(path: Path, report: ReportBuilder) -> list[Ad]:
    ads: list[Ad] = []
    ids: set[AdId] = set()
    for row in _rows(path, CATALOGUE, report):
        try:
            draft = _draft(row)
            ad = clean_creative(draft, COLUMNS)
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        if ad.id in ids:
            report.refuse(row.issue("id", ad.id, "give every ad an id of its own; the first one is kept"))
            continue
        note_changes(row, draft, ad, COLUMNS, report)
        ids.add(ad.id)
        ads.append(ad)
        report.accept(row.file)
    return ads


def _draft(row: Row) -> Ad:
    """Return the ad of a row as it is written there.

    Raises:
        InputError: if a field is no text or the description is missing; its place is the field.
    """
    title = row.text("title")
    draft = Ad(
        id=row.text("id"),
        title=title,
        text=row.text("text"),
        advertiser=row.text("advertiser") or title,
        category=row.text("category"),
        landing_url=row.text("landing_url"),
    )
    if not draft.text:
        raise InputError("text", "", "describe what is advertised")
    return draft


def _read_queries(path: Path, ads: set[AdId], report: ReportBuilder) -> list[ImportedQuery]:
    queries: list[ImportedQuery] = []
    seen: set[tuple[str, str, str]] = set()
    for row in _rows(path, QUERIES, report):
        try:
            text = query_text(row, "query")
            profile, category = row.text("profile"), row.text("category")
            relevant = _relevant(row, ads)
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        key = (match_key(text), category, profile)
        if key in seen:
            report.refuse(row.issue("query", text, "remove the duplicate; the first one is kept"))
            continue
        note_query(row, "query", text, report)
        seen.add(key)
        queries.append(ImportedQuery(text, category, relevant, profile))
        report.accept(row.file)
    return queries


def _relevant(row: Row, ads: set[AdId]) -> tuple[AdId, ...]:
    value = row.fields.get("relevant")
    if isinstance(value, list):
        if not all(isinstance(entry, str) for entry in value):
            raise InputError("relevant", value, "list ad ids as text")
        listed = [entry.strip() for entry in value]
    else:
        listed = [entry.strip() for entry in row.text("relevant").split(SEPARATOR)] if value else []
    unknown = [entry for entry in listed if entry not in ads]
    if unknown:
        raise InputError("relevant", unknown[0], "name ads of the catalogue, by id")
    return tuple(dict.fromkeys(listed))
