"""Content-addressed disk cache of the judge's accepted replies.

The key is a digest of model, messages and parameters. The messages are not stored, because they contain a profile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mechanism.errors import InputError
from mechanism.files import replace_file


class ReplyCache:
    """Replies as files `<folder>/<first two digits>/<sha256>.json`. Safe for several threads and processes.

    A folder that cannot be created or written is an InputError.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(folder), error.strerror, "give a writable cache folder") from error

    @staticmethod
    def key(model: str, messages: Sequence[Mapping[str, str]], params: Mapping[str, object]) -> str:
        """Return the sha256 of the request in canonical JSON."""
        request = {"model": model, "messages": [dict(m) for m in messages], "params": dict(params)}
        canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def get(self, key: str) -> str | None:
        """Return the text of a reply, or None. A damaged entry counts as absent; the next `put` overwrites it."""
        try:
            entry = json.loads(self._path(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        reply = entry.get("reply") if isinstance(entry, dict) else None
        return reply if isinstance(reply, str) else None

    def put(self, key: str, reply: str) -> None:
        """Store a reply atomically; the last writer of a key wins."""
        replace_file(self._path(key), json.dumps({"reply": reply}).encode(), durable=False)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
