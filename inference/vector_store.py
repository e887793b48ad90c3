"""Vectors of texts on disk, shared by processes: runs over the same world encode each sentence once.

Vectors are kept by the sha256 of their text, so the file holds no text.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mechanism.errors import ConfigError

STORE = "LLM_AUCTION_ENCODER_STORE"
"""Environment variable with the path of the file."""
ENCODER = b"all-MiniLM-L6-v2 "
"""Part of every key: another encoder's vectors are other entries."""
AT_ONCE = 500
"""Texts in one query."""
BUSY_S = 60.0
"""How long a process waits for another one that writes."""


class VectorStore:
    """A SQLite file of unit vectors; a process may hold it open for as long as it lives."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it with its folder.

        Raises:
            ConfigError: if it cannot be written, or is no file of this kind.
        """
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")  # what a crash loses is computed again
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS vectors (text BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(STORE, str(path), f"{error}: name a file that can be written, or unset it") from error

    def known(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of those texts that are stored."""
        by_key = {_key(text): text for text in texts}
        found: dict[str, NDArray[np.float32]] = {}
        asked = list(by_key)
        for keys in (asked[start : start + AT_ONCE] for start in range(0, len(asked), AT_ONCE)):
            marks = ", ".join("?" * len(keys))
            for key, vector in self._database.execute(f"SELECT * FROM vectors WHERE text IN ({marks})", keys):
                found[by_key[key]] = np.frombuffer(vector, np.float32)
        return found

    def add(self, vectors: Mapping[str, NDArray[np.float32]]) -> None:
        """Store vectors; one that another process stored meanwhile stays."""
        rows = [(_key(text), np.asarray(vector, np.float32).tobytes()) for text, vector in vectors.items()]
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)
            self._database.execute("COMMIT")


def _key(text: str) -> bytes:
    return hashlib.sha256(ENCODER + text.encode()).digest()
