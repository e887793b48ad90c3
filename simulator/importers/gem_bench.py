"""Importer for the data of GEM-Bench (Generative-Engine-Marketing/GEM-Bench, `GemBench/benchmarking/dataset`).

Files that are there are read, each in its own form: products by category (`product/*.json`: lists of names, urls and
descs), the shopping products of `CA_Prod` (`gem_bench_shop`), and prompts without labels (`MT_Human`: a list of texts
beside a list of categories; `LM_Market/*.json`: objects with `prompt` and topics).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from mechanism.errors import InputError
from mechanism.types import Ad
from simulator.importers.asked import AskedQueries, note_query, query_text
from simulator.importers.creatives import clean_creative, clean_topic, fitting, landing_page, note_changes
from simulator.importers.dataset import ImportedData, ReportBuilder, match_key
from simulator.importers.gem_bench_shop import PRODUCTS, SHOP, read_shop
from simulator.importers.json_text import JsonText
from simulator.importers.rows import Row

CATALOGUES = {"product/products.json": "prod", "product/balanced_queries_by_category.json": "bal"}
"""Files of products by category, and the prefixes of their ads' ids."""
LISTS = ("names", "urls", "descs")
PROMPTS, CATEGORIES, MARKET = "MT_Human/prompts.json", "MT_Human/categories.json", "LM_Market"
TOPICS = ("category", "topic_1", "topic_2")
"""Keys of a prompt that may name its topic; the first that does counts."""
COLUMNS = {"title": "names", "advertiser": "names", "text": "descs", "category": "category"}


def load_gem_bench(folder: Path | str, *, strict: bool = False) -> ImportedData:
    """Read every known file of the folder; equal prompts of a topic are refused after the first.

    Without `strict` the refused rows are in the report.

    Raises:
        InputError: if the folder has none, a file is no JSON or has a wrong header, or (`strict`) a row was refused.
    """
    folder = Path(folder)
    market = sorted((folder / MARKET).glob("*.json"))
    files = (*CATALOGUES, PROMPTS, f"{SHOP}/{PRODUCTS}")
    known = [name for name in files if (folder / name).is_file()]
    if not known and not market:
        raise InputError(str(folder), "no data", f"give a folder with {', '.join(files)} or {MARKET}")
    report, asked = ReportBuilder(), AskedQueries()
    ads: list[Ad] = []
    for name, prefix in CATALOGUES.items():
        if name in known:
            ads += _read_catalogue(folder / name, name, prefix, report)
    if f"{SHOP}/{PRODUCTS}" in known:
        ads += read_shop(folder / SHOP, asked, report)
    if PROMPTS in known:
        _read_prompts(folder, asked, report)
    for path in market:
        _read_market(path, f"{MARKET}/{path.name}", asked, report)
    finished = report.build()
    if strict:
        finished.refuse_issues(str(folder))
    return ImportedData(tuple(ads), asked.build(), finished)


def _read_catalogue(path: Path, file: str, prefix: str, report: ReportBuilder) -> list[Ad]:
    ads: list[Ad] = []
    taken: set[tuple[str, str, str]] = set()
    for row in _products(path, file, report):
        try:
            name, description, category = (row.text(column) for column in ("names", "descs", "category"))
            url = row.text("urls").strip()
            for column, value in (("names", name), ("descs", description)):
                if not value.strip():
                    raise InputError(column, value, f"give the lists {', '.join(LISTS)} the same length and no blank")
            draft = Ad(f"{prefix}-{row.number:05d}", name, description, name, category)
            ad = clean_creative(fitting(draft), COLUMNS)
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        key = (match_key(name), match_key(description), match_key(category))
        if key in taken:
            report.refuse(row.issue("names", name, "remove the duplicate; the first one is kept"))
            continue
        taken.add(key)
        note_changes(row, draft, ad, {k: v for k, v in COLUMNS.items() if k != "advertiser"}, report)
        ads.append(replace(ad, landing_url=landing_page(row, "urls", url, report)))
        report.accept(row.file)
    return ads


def _products(path: Path, file: str, report: ReportBuilder) -> Iterator[Row]:
    """Yield one row a product: the entries of the same place in the category's three lists, at the line of the first.

    A category that is no object of lists is one refused row.

    Raises:
        InputError: if the file is not an object.
    """
    document = JsonText(path)
    report.open(file)
    if document.kind(document.start) != "{":
        raise InputError(f"{path}:1", document.kind(document.start), "write an object of categories")
    number = 0
    for category, at, value in document.members(document.start):
        lists: dict[str, list[tuple[int, object]]] = {}
        fault = "" if isinstance(value, dict) else "row"
        for name, place, entries in document.members(at) if isinstance(value, dict) else ():
            if not isinstance(entries, list) or name not in LISTS or name in lists:
                fault = fault or name
            else:
                lists[name] = list(document.elements(place))
        entries_of = [lists.get(name, []) for name in LISTS]
        if fault or not any(entries_of):
            number += 1
            report.read(file)
            row = Row(file, document.line(at), number, {})
            remedy = f"give the category {category!r} the lists {', '.join(LISTS)}, once each"
            report.refuse(row.issue(fault or "row", category, remedy))
            continue
        for entries in zip_longest(*entries_of):
            number += 1
            report.read(file)
            first = min(at for at, _ in filter(None, entries))
            fields = {name: entry[1] if entry else "" for name, entry in zip(LISTS, entries, strict=True)}
            yield Row(file, document.line(first), number, {**fields, "category": category})


def _read_prompts(folder: Path, asked: AskedQueries, report: ReportBuilder) -> None:
    """Read the list of prompts and, if it is there, the list of their categories, in the same order."""
    prompts = list(_elements(folder / PROMPTS, PROMPTS, "prompt", report))
    topics: dict[int, str] = {}
    if (folder / CATEGORIES).is_file():
        for row in _elements(folder / CATEGORIES, CATEGORIES, "category", report):
            if row.number > len(prompts):
                remedy = f"remove it: there are {len(prompts)} prompts"
                report.refuse(row.issue("category", row.fields["category"], remedy))
                continue
            try:
                topics[row.number] = clean_topic(row.text("category"), "category")
            except InputError as error:
                report.refuse(row.fault(error))
                continue
            report.accept(row.file)
    for row in prompts:
        _take_prompt(row, topics.get(row.number, ""), asked, report)


def _read_market(path: Path, file: str, asked: AskedQueries, report: ReportBuilder) -> None:
    ignored: set[str] = set()
    for row in _elements(path, file, "row", report):
        value = row.fields["row"]
        if not isinstance(value, dict):
            report.refuse(row.issue("row", value, "write an object with prompt and topics"))
            continue
        for name in sorted(value.keys() - {"prompt", *TOPICS} - ignored):
            ignored.add(name)
            report.repair(row.issue(name, name, "this key is not known and is ignored, here and below"))
        entry = Row(row.file, row.line, row.number, value)
        try:
            named = [clean_topic(entry.text(key), key) for key in TOPICS]
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        _take_prompt(entry, next(filter(None, named), ""), asked, report)


def _take_prompt(row: Row, topic: str, asked: AskedQueries, report: ReportBuilder) -> None:
    try:
        text = query_text(row, "prompt")
    except InputError as error:
        report.refuse(row.fault(error))
        return
    if (match_key(text), topic) in asked:
        report.refuse(row.issue("prompt", text, "remove the duplicate; the first one is kept"))
        return
    note_query(row, "prompt", text, report)
    asked.add(text, topic)
    report.accept(row.file)


def _elements(path: Path, file: str, field: str, report: ReportBuilder) -> Iterator[Row]:
    """Yield the elements of a file's array as rows, each under `field`.

    Raises:
        InputError: if the file is not an array.
    """
    document = JsonText(path)
    report.open(file)
    if document.kind(document.start) != "[":
        raise InputError(f"{path}:1", document.kind(document.start), "write an array")
    for number, (at, value) in enumerate(document.elements(document.start), start=1):
        report.read(file)
        yield Row(file, document.line(at), number, {field: value})
