"""Importer for NaiAD (arXiv 2605.09918): queries with an ad and an answer that carries it.

`NaiAD_main.jsonl` holds an ad in every row; the distinct pairs of `ad_name` and `ad_info` are the ads, and each row
labels its ad as relevant to its query. `NaiAD_human.jsonl` does not name the ads of its answers: it gives queries only.
"""

from __future__ import annotations

from pathlib import Path

from mechanism.errors import InputError
from mechanism.sanitize import clean_query
from mechanism.types import Ad
from simulator.importers.asked import AskedQueries, note_query, query_text
from simulator.importers.creatives import clean_creative, clean_topic, fitting, note_changes
from simulator.importers.dataset import ImportedData, ReportBuilder, digest, match_key
from simulator.importers.native_answers import UNNAMED, native_answer
from simulator.importers.rows import Row, jsonl_rows

MAIN, HUMAN = "NaiAD_main.jsonl", "NaiAD_human.jsonl"
MAIN_COLUMNS = (
    "id", "query", "category", "ad_name", "ad_label", "ad_info", "logic_bridge", "strategy", "response",
    "ppied_scores",
)  # fmt: skip
HUMAN_COLUMNS = ("id", "query", "response", "ppied_scores")
LARGEST = 1e6
"""Largest score that is read; larger ones, infinities and NaN are faults."""
SCORES = ("q1", "q2", "q3", "q4")
COLUMNS = {"title": "ad_name", "text": "ad_info"}


def load_naiad(folder: Path | str, *, strict: bool = False) -> ImportedData:
    """Read both files, or the one that is there; the topic of a query is the first of its row's categories.

    Without `strict` the refused rows are in the report.

    Raises:
        InputError: if the folder has neither file, or (`strict`) a row was refused.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in (MAIN, HUMAN)):
        raise InputError(str(folder), "no data", f"give a folder with {MAIN} or {HUMAN}")
    report, asked = ReportBuilder(), AskedQueries()
    ads: dict[tuple[str, str], Ad] = {}
    if (folder / MAIN).is_file():
        _read_main(folder / MAIN, ads, asked, report)
    if (folder / HUMAN).is_file():
        _read_human(folder / HUMAN, asked, report)
    finished = report.build()
    if strict:
        finished.refuse_issues(str(folder))
    return ImportedData(tuple(ads.values()), asked.build(), finished)


def _read_main(path: Path, ads: dict[tuple[str, str], Ad], asked: AskedQueries, report: ReportBuilder) -> None:
    ids: set[str] = set()
    for row in jsonl_rows(path, MAIN_COLUMNS, (), report):
        try:
            _new_id(row, ids)
            text, topic, score = query_text(row, "query"), _topic(row), _score(row)
            answer = clean_query(row.text("response"), "response")
            for unused in ("ad_label", "logic_bridge", "strategy"):
                row.text(unused)
            key = (match_key(row.text("ad_name")), match_key(row.text("ad_info")))
            draft = _draft(row, topic)
            ad = ads.get(key) or clean_creative(fitting(draft), {**COLUMNS, "advertiser": "ad_name"})
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        ids.add(row.text("id"))
        if key not in ads:
            ads[key] = ad
            note_changes(row, draft, ad, COLUMNS, report)
        note_query(row, "query", text, report)
        query = asked.add(text, topic)
        asked.label(query, ad.id)
        example = native_answer(answer, row.text("ad_name"), ad, score=score)
        if example is None:
            report.repair(row.issue("ad_name", row.text("ad_name"), UNNAMED))
        else:
            asked.answer(query, example)
        report.accept(row.file)


def _read_human(path: Path, asked: AskedQueries, report: ReportBuilder) -> None:
    ids: set[str] = set()
    for row in jsonl_rows(path, HUMAN_COLUMNS, (), report):
        try:
            _new_id(row, ids)
            text = query_text(row, "query")
            clean_query(row.text("response"), "response")
            _score(row)
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        ids.add(row.text("id"))
        note_query(row, "query", text, report)
        asked.add(text, "")
        report.accept(row.file)


def _draft(row: Row, topic: str) -> Ad:
    name, info = row.text("ad_name"), row.text("ad_info")
    if not info:
        raise InputError("ad_info", "", "describe what is advertised")
    return Ad(f"nai-{digest(match_key(name), match_key(info))[:12]}", name, info, name, topic)


def _new_id(row: Row, ids: set[str]) -> None:
    given = row.text("id")
    if not given or given in ids:
        raise InputError("id", given, "give every row an id of its own; the first one is kept")


def _topic(row: Row) -> str:
    value = row.fields["category"]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise InputError("category", value, "list the categories as text")
    return clean_topic(value[0], "category") if value else ""


def _score(row: Row) -> float:
    """Return the mean of the four scores.

    Raises:
        InputError: if one is missing or no number.
    """
    value = row.fields["ppied_scores"]
    scores = [value.get(name) for name in SCORES] if isinstance(value, dict) else []
    numbers = [
        float(s) for s in scores if isinstance(s, (int, float)) and not isinstance(s, bool) and abs(s) <= LARGEST
    ]
    if len(numbers) != len(SCORES):
        raise InputError("ppied_scores", value, f"give the numbers {', '.join(SCORES)}")
    return sum(numbers) / len(numbers)
