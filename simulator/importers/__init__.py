"""Real catalogues and queries, read with a report in which every row is accounted for."""

from simulator.importers.dataset import (
    FileCount,
    ImportedAnswer,
    ImportedData,
    ImportedQuery,
    ImportReport,
    RowIssue,
    split_queries,
)
from simulator.importers.folders import LOADERS, folder_kind
from simulator.importers.gem_bench import load_gem_bench
from simulator.importers.naiad import load_naiad
from simulator.importers.native_ads import load_native_ads
from simulator.importers.tables import load_tables
from simulator.importers.webis import load_webis

__all__ = [
    "LOADERS",
    "FileCount",
    "ImportReport",
    "ImportedAnswer",
    "ImportedData",
    "ImportedQuery",
    "RowIssue",
    "folder_kind",
    "load_gem_bench",
    "load_naiad",
    "load_native_ads",
    "load_tables",
    "load_webis",
    "split_queries",
]
