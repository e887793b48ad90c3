"""The digest that names a model's weights: in auction records, events and the model registry alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def digest_of(files: Mapping[str, str]) -> str:
    """One digest for `{file name: sha256}`: a single file's own (as `sha256sum` prints it), else that of the list."""
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()
