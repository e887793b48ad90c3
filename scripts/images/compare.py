"""Which files of two folders differ."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path


def differing(one: Path, other: Path) -> Iterator[str]:
    """Yield the paths that two folders do not have in common or that differ in kind, mode, owner or content."""
    first, second = _described(one), _described(other)
    for path in sorted(first.keys() | second.keys()):
        if first.get(path) != second.get(path):
            yield path


def _described(root: Path) -> dict[str, tuple[int, int, int, str]]:
    found: dict[str, tuple[int, int, int, str]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found
