"""Importer for folders laid out like the resources of webis-de/ads-in-generative-ir (Webis Group, 2024).

A topic is three files: `<topic>_queries.txt` (a query a line), `<topic>_qualities.csv` (advertisement,type,qualities)
and `<topic>_query_pairs.csv` (query,advertisement: a hand-checked label that the ad fits the query).
"""

from __future__ import annotations

from pathlib import Path

from mechanism.errors import InputError
from mechanism.types import Ad, AdId
from simulator.importers.asked import note_query, query_text
from simulator.importers.creatives import clean_creative, note_changes
from simulator.importers.dataset import ImportedData, ImportedQuery, ReportBuilder, match_key, same_title
from simulator.importers.rows import csv_rows, text_rows

QUALITIES, QUERIES, PAIRS = "_qualities.csv", "_queries.txt", "_query_pairs.csv"
SHORTEST_PREFIX = 3


def load_webis(folder: Path | str, *, strict: bool = False) -> ImportedData:
    """Read every topic of `folder`; ad ids are the topic's first letters and the ad's row in its file (`ban-017`).

    InputError if the folder has no topic, a topic lacks a file, a header is wrong, or (`strict`) any row was refused;
    without `strict` the refused rows are in the report.
    """
    folder = Path(folder)
    topics = find_topics(folder)
    prefixes = topic_prefixes(topics)
    report = ReportBuilder()
    ads: list[Ad] = []
    queries: list[ImportedQuery] = []
    for topic in topics:
        own = _read_ads(folder / (topic + QUALITIES), topic, prefixes[topic], report)
        asked = _read_queries(folder / (topic + QUERIES), report)
        labels = _read_pairs(folder / (topic + PAIRS), own, asked, report)
        ads += own
        queries += [ImportedQuery(text, _category(topic), tuple(labels.get(key, ()))) for key, text in asked.items()]
    finished = report.build()
    if strict:
        finished.refuse_issues(str(folder))
    return ImportedData(tuple(ads), tuple(queries), finished)


def find_topics(folder: Path) -> tuple[str, ...]:
    """Return the topics of the folder in alphabetical order.

    Raises:
        InputError: if there is none, or one lacks a file.
    """
    if not folder.is_dir():
        raise InputError(str(folder), "no such folder", f"give a folder with files <topic>{QUALITIES}")
    endings = (QUALITIES, QUERIES, PAIRS)
    topics = {f.name.removesuffix(end) for f in folder.iterdir() for end in endings if f.name.endswith(end)} - {""}
    if not topics:
        raise InputError(str(folder), "no topic", f"give a folder with files <topic>{QUALITIES}")
    for topic in sorted(topics):
        for end in endings:
            if not (folder / (topic + end)).is_file():
                raise InputError(str(folder / (topic + end)), "missing", f"add it: topic {topic!r} needs three files")
    return tuple(sorted(topics))


def topic_prefixes(topics: tuple[str, ...]) -> dict[str, str]:
    """Return the shortest prefix of each topic, of at least three letters, that no other topic has.

    Raises:
        InputError: if two topics differ in punctuation alone.
    """
    letters = {topic: "".join(c for c in topic.lower() if c.isascii() and c.isalnum()) or "topic" for topic in topics}
    prefixes: dict[str, str] = {}
    for topic in topics:
        others = [letters[t] for t in topics if t != topic]
        lengths = range(SHORTEST_PREFIX, len(letters[topic]) + 1)
        fitting = (letters[topic][:n] for n in lengths if not any(o.startswith(letters[topic][:n]) for o in others))
        prefixes[topic] = next(fitting, letters[topic])
    if len(set(prefixes.values())) != len(topics):
        raise InputError("topics", ", ".join(topics), "rename topics that differ in punctuation alone")
    return prefixes


def _category(topic: str) -> str:
    return topic.replace("_", " ")


def _read_ads(path: Path, topic: str, prefix: str, report: ReportBuilder) -> list[Ad]:
    ads: list[Ad] = []
    taken: dict[str, AdId] = {}
    for row in csv_rows(path, ("advertisement", "type", "qualities"), (), report, multiline=False):
        title, kind, qualities = (str(row.fields[name]) for name in ("advertisement", "type", "qualities"))
        empty = next((name for name, value in row.fields.items() if not value), None)
        if empty is not None:
            report.refuse(row.issue(empty, "", "fill the field"))
            continue
        draft = Ad(f"{prefix}-{row.number:03d}", title, f"{kind}: {qualities}", title, _category(topic))
        try:
            ad = clean_creative(draft, {"title": "advertisement", "advertiser": "advertisement", "text": "qualities"})
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        key = match_key(ad.title)
        if key in taken:
            report.refuse(row.issue("advertisement", title, f"remove the duplicate: {taken[key]} has this title"))
            continue
        note_changes(row, draft, ad, {"title": "advertisement"}, report)
        taken[key] = ad.id
        ads.append(ad)
        report.accept(row.file)
    return ads


def _read_queries(path: Path, report: ReportBuilder) -> dict[str, str]:
    """Return the texts by `match_key`, in file order."""
    texts: dict[str, str] = {}
    for row in text_rows(path, "query", report):
        try:
            text = query_text(row, "query")
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        if match_key(text) in texts:
            report.refuse(row.issue("query", text, "remove the duplicate"))
            continue
        note_query(row, "query", text, report)
        texts[match_key(text)] = text
        report.accept(row.file)
    return texts


def _read_pairs(path: Path, ads: list[Ad], asked: dict[str, str], report: ReportBuilder) -> dict[str, list[AdId]]:
    """Return labelled ad ids by the query's `match_key`; a pair counts only if both its query and its ad are known."""
    by_title = same_title(ads)
    labels: dict[str, list[AdId]] = {}
    for row in csv_rows(path, ("query", "advertisement"), (), report, multiline=False):
        query, title = str(row.fields["query"]), str(row.fields["advertisement"])
        ad = by_title.get(match_key(title))
        own = labels.get(match_key(query), [])
        if match_key(query) not in asked:
            report.refuse(row.issue("query", query, f"add it to {path.name.removesuffix(PAIRS)}{QUERIES}"))
        elif ad is None:
            remedy = f"add the ad to {path.name.removesuffix(PAIRS)}{QUALITIES} or correct its spelling"
            report.refuse(row.issue("advertisement", title, remedy))
        elif ad.id in own:
            report.refuse(row.issue("row", f"{query},{title}", "remove the duplicate pair"))
        else:
            if ad.title != title:
                report.repair(row.issue("advertisement", title, f"is read as {ad.title!r}"))
            labels.setdefault(match_key(query), []).append(ad.id)
            report.accept(row.file)
    return labels
