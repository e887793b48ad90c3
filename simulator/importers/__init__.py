"""Real catalogues and queries, read with a report in which every row is accounted for."""

from simulator.importers.dataset import ImportedData, ImportedQuery, split_queries
from simulator.importers.report import FileCount, ImportReport, RowIssue
from simulator.importers.tables import load_tables
from simulator.importers.webis import load_webis

__all__ = [
    "FileCount",
    "ImportReport",
    "ImportedData",
    "ImportedQuery",
    "RowIssue",
    "load_tables",
    "load_webis",
    "split_queries",
]
