"""Creatives of imported rows: cleaned, shortened where a data set writes more than a creative holds, and noted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mechanism.errors import InputError
from mechanism.markers import MAX_TITLE
from mechanism.sanitize import MAX_TEXT, clean_ad, clean_title, web_address_fault
from mechanism.types import Ad
from simulator.importers.dataset import ReportBuilder
from simulator.importers.rows import Row

NO_ADDRESS = ("", "nan")
"""What stands for a missing web address; pandas writes the second."""


def clean_creative(draft: Ad, columns: Mapping[str, str]) -> Ad:
    """Return the ad with clean fields; `columns` names the column of each of its fields, where that is another.

    Raises:
        InputError: if a field cannot be cleaned; its place is the column.
    """
    try:
        return clean_ad(draft, "")
    except InputError as error:
        field = error.place.strip()
        raise InputError(columns.get(field, field), error.value, error.remedy) from error


def clean_topic(topic: str, column: str) -> str:
    """Return a topic as it is written in ads and queries; empty stays empty. InputError at `column`."""
    return clean_title(topic, column) if topic.strip() else ""


def fitting(draft: Ad) -> Ad:
    """Return the ad with title and text cut at a word's end where they are longer than a creative may be.

    For data sets whose product titles and descriptions were not written as creatives; `note_changes` reports the cut.
    """
    title = _cut(draft.title, MAX_TITLE)
    advertiser = _cut(draft.advertiser, MAX_TITLE)
    return replace(draft, title=title, text=_cut(draft.text, MAX_TEXT), advertiser=advertiser)


def note_changes(row: Row, draft: Ad, ad: Ad, columns: Mapping[str, str], report: ReportBuilder) -> None:
    """Report each field of `columns` that a row gave and that the ad has otherwise."""
    written = {
        "title": (draft.title, ad.title),
        "text": (draft.text, ad.text),
        "category": (draft.category, ad.category),
        "advertiser": (draft.advertiser, ad.advertiser),
    }
    for field, column in columns.items():
        given, kept = written[field]
        if given and given != kept and row.fields.get(column):
            report.repair(row.issue(column, given, f"is written {kept!r}"))


def landing_page(row: Row, column: str, value: str, report: ReportBuilder) -> str:
    """Return a landing page from an address or a bare domain (`shop.example`); report one that cannot be used."""
    if value.lower() in NO_ADDRESS:
        return ""
    url = value if "://" in value else f"https://{value}"
    remedy = web_address_fault(url)
    if remedy is not None:
        report.repair(row.issue(column, value, f"is left out; {remedy}"))
        return ""
    if url != value:
        report.repair(row.issue(column, value, f"is written {url!r}"))
    return url


def _cut(text: str, longest: int) -> str:
    flat = " ".join(text.split())
    if len(flat) <= longest:
        return text
    head = flat[: longest + 1]
    return head[: head.rfind(" ")].rstrip(" ,;:-|(") if " " in head else flat[:longest]
