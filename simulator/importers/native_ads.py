"""Importer for Webis Generated Native Ads 2024: answers of search engines, half of them with an inserted ad.

The data set is a folder that `datasets.save_to_disk` wrote: `responses.hf/{train,validation,test}/data-*.arrow`. It
names what is advertised and says no more about it, so the sentence that first advertises it is the ad's text. Its own
split, by what is advertised, is not used: `split_queries` splits every world by the query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mechanism.errors import InputError
from mechanism.sanitize import clean_query
from mechanism.types import Ad
from simulator.importers.arrow import arrow_rows
from simulator.importers.asked import AskedQueries, note_query, query_text
from simulator.importers.creatives import clean_creative, clean_topic, fitting, note_changes
from simulator.importers.dataset import ImportedAnswer, ImportedData, ReportBuilder, digest, match_key
from simulator.importers.native_answers import UNNAMED, native_answer
from simulator.importers.rows import Row

RESPONSES = "responses.hf"
SPLITS = ("train", "validation", "test")
REQUIRED = ("service", "meta_topic", "query", "advertisement", "response", "label", "span", "sen_span")
OPTIONAL = ("id",)
COLUMNS = {"title": "advertisement", "advertiser": "advertisement", "category": "meta_topic"}
_SPAN = re.compile(r"\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\)")


def load_native_ads(folder: Path | str, *, strict: bool = False) -> ImportedData:
    """Read every split of a folder, or of its `responses.hf`; equal queries of a topic become one.

    Without `strict` the refused rows are in the report.

    Raises:
        InputError: if the folder has no Arrow file, a file cannot be read, or (`strict`) a row was refused.
    """
    folder = Path(folder)
    root = folder / RESPONSES if (folder / RESPONSES).is_dir() else folder
    files = list(arrow_files(root))
    if not files:
        raise InputError(str(folder), "no data", f"give a folder with {RESPONSES}/train/data-00000-of-00001.arrow")
    report, asked = ReportBuilder(), AskedQueries()
    ads: dict[tuple[str, str], Ad] = {}
    ids: set[str] = set()
    for path in files:
        for row in arrow_rows(path, f"{path.parent.name}/{path.name}", REQUIRED, OPTIONAL, report):
            _read_row(row, ids, ads, asked, report)
    finished = report.build()
    if strict:
        finished.refuse_issues(str(folder))
    return ImportedData(tuple(ads.values()), asked.build(), finished)


def arrow_files(root: Path) -> Iterator[Path]:
    """Yield the data files of the splits, in order."""
    for split in SPLITS:
        yield from sorted((root / split).glob("data-*.arrow"))


def _read_row(
    row: Row, ids: set[str], ads: dict[tuple[str, str], Ad], asked: AskedQueries, report: ReportBuilder
) -> None:
    try:
        given = row.text("id")
        if given in ids:
            raise InputError("id", given, "give every row an id of its own; the first one is kept")
        row.text("service")
        topic = clean_topic(row.text("meta_topic").replace("_", " "), "meta_topic")
        text, answer = query_text(row, "query"), clean_query(row.text("response"), "response")
        name, (column, passage) = _advertisement(row), _passage(row)
        marked = clean_query(passage, column) if passage.strip() else ""
        draft = _draft(name, passage, topic)
        key = (topic, match_key(name))
        ad = ads.get(key) or (clean_creative(fitting(draft), {**COLUMNS, "text": column}) if name else None)
    except InputError as error:
        report.refuse(row.fault(error))
        return
    if given:
        ids.add(given)
    note_query(row, "query", text, report)
    query = asked.add(text, topic)
    if ad is None:
        asked.answer(query, ImportedAnswer(answer))
    else:
        if key not in ads:
            ads[key] = ad
            note_changes(row, draft, ad, {"title": "advertisement"}, report)
        asked.label(query, ad.id)
        example = native_answer(answer, name, ad, marked)
        if example is None:
            report.repair(row.issue("advertisement", name, UNNAMED))
        else:
            asked.answer(query, example)
    report.accept(row.file)


def _draft(name: str, passage: str, topic: str) -> Ad:
    return Ad(f"nat-{digest(topic, match_key(name))[:12]}", name, passage, name, topic)


def _advertisement(row: Row) -> str:
    """Return what is advertised; empty for an answer without an ad (label 0).

    Raises:
        InputError: if the label is neither 0 nor 1, or does not fit the column.
    """
    label, name = row.fields["label"], row.text("advertisement").strip()
    if isinstance(label, bool) or label not in (0, 1):
        raise InputError("label", label, "write 1 for an answer with an ad and 0 for one without")
    if bool(name) != bool(label):
        remedy = "name what is advertised" if label else "leave it out where the label is 0"
        raise InputError("advertisement", name, remedy)
    return name


def _passage(row: Row) -> tuple[str, str]:
    """Return the characters of the response that the row marks as the ad, after the column that marks them.

    Where neither column does, the characters are empty and the column is `span`.
    """
    marked = [(column, _span(row, column)) for column in ("span", "sen_span")]
    return next((pair for pair in marked if pair[1]), marked[0])


def _span(row: Row, column: str) -> str:
    written, response = row.text(column).strip(), row.text("response")
    if not written:
        return ""
    match = _SPAN.fullmatch(written)
    if match is None:
        raise InputError(column, written, "write two offsets in the response, such as (12, 80)")
    start, end = int(match[1]), int(match[2])
    if not start < end <= len(response):
        raise InputError(column, written, f"give offsets in order and within the {len(response)} characters")
    return response[start:end]
