"""Atomic file replacement: a reader, or the machine after a power cut, finds the old contents or the new ones.

The only I/O of this package. It is here because every other package writes state that a kill must not damage.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the contents of `path` atomically; create its folder if it is missing.

    The data goes to a hidden file beside `path`, which is then renamed over it; its permissions follow the umask, as
    for a newly opened file. With `durable`, data and name are on the disk when this returns. If it fails with OSError,
    `path` holds what it held before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
    try:
        with draft.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, added or removed, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
