"""The digest that names a model folder's weights, the same for builder, server and client. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".gguf")


def weights_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold weights, by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(WEIGHTS))


def folder_digest(folder: Path) -> str:
    """sha256 of the weights as they lie in a folder; reads every byte of them."""
    return digest_of({path.name: file_sha256(path) for path in weights_files(folder)})


def digest_of(files: Mapping[str, str]) -> str:
    """One digest for `{file name: sha256}`: a single file's own (as `sha256sum` prints it), else that of the list."""
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 of one file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
