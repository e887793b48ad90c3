"""The shopping part of GEM-Bench, `CA_Prod/src/dataset`: products, queries and labelled pairs, separated by tabs.

`products.tsv` is needed. Queries count if `queries.tsv` and `final_balanced_dataset.tsv` (pairs of a query and a
product, label 1: relevant) are both there; `cluster_labels.tsv` names the clusters, which are the topics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mechanism.errors import InputError
from mechanism.types import Ad, AdId
from simulator.importers.asked import AskedQueries, note_query, query_text
from simulator.importers.creatives import clean_creative, clean_topic, fitting, landing_page, note_changes
from simulator.importers.dataset import ReportBuilder
from simulator.importers.rows import Row, csv_rows

SHOP = "CA_Prod/src/dataset"
PRODUCTS, QUERIES, PAIRS, CLUSTERS = (
    "products.tsv", "queries.tsv", "final_balanced_dataset.tsv", "cluster_labels.tsv",
)  # fmt: skip
PRODUCT_COLUMNS = ("product_id", "ad_title", "ad_description", "website", "source", "brand", "cluster_category")
PAIR_COLUMNS = ("query_idx", "product_idx", "label", "cluster_id", "original_query_id", "original_product_id")
COLUMNS = {"id": "product_id", "title": "ad_title", "text": "ad_description", "advertiser": "brand"}


def read_shop(folder: Path, asked: AskedQueries, report: ReportBuilder) -> list[Ad]:
    """Read the products, and the labelled queries into `asked`; ad ids are `ca-` and the product's id."""
    clusters = _read_clusters(folder / CLUSTERS, report) if (folder / CLUSTERS).is_file() else {}
    ads = _read_products(folder / PRODUCTS, clusters, report)
    if (folder / QUERIES).is_file() and (folder / PAIRS).is_file():
        queries = _read_queries(folder / QUERIES, report)
        pairs = _read_pairs(folder / PAIRS, queries, {ad.id for ad in ads}, report)
        for number, text in queries.items():
            cluster, relevant = pairs.get(number, ("", ()))
            key = asked.add(text, _topic(cluster, clusters) if cluster else "")
            for ad_id in relevant:
                asked.label(key, ad_id)
    return ads


def _read_clusters(path: Path, report: ReportBuilder) -> dict[str, str]:
    names: dict[str, str] = {}
    for row in _tab_rows(path, ("cluster_id", "cluster_name"), report):
        try:
            number, name = _number(row, "cluster_id"), clean_topic(row.text("cluster_name"), "cluster_name")
            if not name or number in names:
                raise InputError("cluster_id" if name else "cluster_name", number, "name each cluster once")
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        names[number] = name
        report.accept(row.file)
    return names


def _read_products(path: Path, clusters: dict[str, str], report: ReportBuilder) -> list[Ad]:
    ads: dict[AdId, Ad] = {}
    for row in _tab_rows(path, PRODUCT_COLUMNS, report):
        try:
            title, brand = row.text("ad_title"), row.text("brand")
            if not row.text("ad_description"):
                raise InputError("ad_description", "", "describe what is advertised")
            cluster = _number(row, "cluster_category") if row.text("cluster_category") else ""
            draft = Ad(
                f"ca-{_number(row, 'product_id')}",
                title,
                row.text("ad_description"),
                brand or row.text("source") or title,
                _topic(cluster, clusters) if cluster else "",
            )
            ad = clean_creative(fitting(draft), COLUMNS)
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        if ad.id in ads:
            report.refuse(row.issue("product_id", row.text("product_id"), "give every product an id of its own"))
            continue
        note_changes(row, draft, ad, {k: v for k, v in COLUMNS.items() if k != "id"}, report)
        ads[ad.id] = replace(ad, landing_url=landing_page(row, "website", row.text("website"), report))
        report.accept(row.file)
    return list(ads.values())


def _read_queries(path: Path, report: ReportBuilder) -> dict[str, str]:
    """Return the texts by the queries' ids."""
    texts: dict[str, str] = {}
    for row in _tab_rows(path, ("query_id", "query_text"), report):
        try:
            number, text = _number(row, "query_id"), query_text(row, "query_text")
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        if number in texts:
            report.refuse(row.issue("query_id", number, "give every query an id of its own; the first one is kept"))
            continue
        note_query(row, "query_text", text, report)
        texts[number] = text
        report.accept(row.file)
    return texts


def _read_pairs(
    path: Path, queries: dict[str, str], ads: set[AdId], report: ReportBuilder
) -> dict[str, tuple[str, list[AdId]]]:
    """Return the cluster of each paired query and its relevant ads, by query id; label 0 only says that none fits."""
    pairs: dict[str, tuple[str, list[AdId]]] = {}
    for row in _tab_rows(path, PAIR_COLUMNS, report):
        try:
            query, product, cluster, label = (
                _number(row, column) for column in ("original_query_id", "original_product_id", "cluster_id", "label")
            )
        except InputError as error:
            report.refuse(row.fault(error))
            continue
        if label not in ("0", "1"):
            report.refuse(row.issue("label", label, "write 1 for a relevant product, else 0"))
            continue
        if query not in queries:
            report.refuse(row.issue("original_query_id", query, f"add the query to {QUERIES}"))
            continue
        if f"ca-{product}" not in ads:
            remedy = f"add the product to {PRODUCTS} or correct it there"
            report.refuse(row.issue("original_product_id", product, remedy))
            continue
        relevant = pairs.setdefault(query, (cluster, []))[1]
        if label == "1":
            relevant.append(f"ca-{product}")
        report.accept(row.file)
    return pairs


def _tab_rows(path: Path, columns: Sequence[str], report: ReportBuilder) -> Iterator[Row]:
    return csv_rows(path, columns, (), report, delimiter="\t")


def _number(row: Row, column: str) -> str:
    """Return a whole number without the `.0` that pandas writes in columns with gaps.

    Raises:
        InputError: if the column holds no whole number.
    """
    written = row.text(column).removesuffix(".0")
    if not (written.isascii() and written.isdigit() and len(written) <= 18):
        raise InputError(column, row.text(column), "write a whole number")
    return str(int(written))


def _topic(cluster: str, clusters: dict[str, str]) -> str:
    return clusters.get(cluster, f"cluster {cluster}")
