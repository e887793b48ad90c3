"""Real catalogues and queries, read with a report in which every row is accounted for."""

from simulator.importers.dataset import FileCount, ImportedData, ImportedQuery, ImportReport, RowIssue, split_queries
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
