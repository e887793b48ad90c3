"""The data sets that are folders: their names in configurations, their importers, and how a folder is recognised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from simulator.importers import gem_bench, naiad, native_ads
from simulator.importers.dataset import ImportedData
from simulator.importers.gem_bench import load_gem_bench
from simulator.importers.gem_bench_shop import SHOP
from simulator.importers.naiad import load_naiad
from simulator.importers.native_ads import load_native_ads
from simulator.importers.webis import load_webis


class FolderLoader(Protocol):
    """An importer that reads a folder."""

    def __call__(self, folder: Path | str, *, strict: bool = False) -> ImportedData:
        """Read the folder; with `strict` any refused row is an InputError."""
        ...


LOADERS: Mapping[str, FolderLoader] = {
    "webis": load_webis,
    "naiad": load_naiad,
    "gem-bench": load_gem_bench,
    "native-ads": load_native_ads,
}


def folder_kind(folder: Path) -> str:
    """Return the name of the data set that a folder holds, by its files; "webis" where it is none of the others."""
    if any((folder / name).is_file() for name in (naiad.MAIN, naiad.HUMAN)):
        return "naiad"
    if (folder / native_ads.RESPONSES).is_dir() or any(native_ads.arrow_files(folder)):
        return "native-ads"
    known = (*gem_bench.CATALOGUES, gem_bench.PROMPTS, SHOP, gem_bench.MARKET)
    if any((folder / name).exists() for name in known):
        return "gem-bench"
    return "webis"
