"""The digest that names a model's weights in auction records, the same wherever the model is served: in this process,
on Triton, and as its registry entry publishes them file by file. No torch.

Equal weights in other files (another layout, GGUF) are other weights to it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mechanism.errors import InputError
from mechanism.weights import digest_of

ENTRY = "model.json"
"""The registry's entry beside the weights: `sha256` maps each of their files to its digest."""

WEIGHTS = (".safetensors", ".bin", ".gguf")


def weights_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold weights, by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(WEIGHTS))


def folder_digest(folder: Path) -> str:
    """sha256 of the weights as they lie in a folder; reads every byte of them."""
    return digest_of({path.name: file_sha256(path) for path in weights_files(folder)})


def checked_digest(folder: Path) -> str:
    """The same. Raises InputError where a registry's entry lies beside the weights and names others."""
    found = folder_digest(folder)
    if (folder / ENTRY).is_file() and digest_of(entry_of(folder)["sha256"]) != found:
        raise InputError(str(folder), found, f"the weights are not those of {ENTRY}: restore or register them anew")
    return found


def entry_of(folder: Path) -> dict[str, Any]:
    """The registry's entry of a model folder. Raises InputError for one that is damaged."""
    try:
        entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        if not isinstance(entry["sha256"], dict):
            raise TypeError("sha256 is no mapping")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(str(folder / ENTRY), str(error), "the entry is damaged: register the model anew") from error
    return dict(entry)


def file_sha256(path: Path) -> str:
    """sha256 of one file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
