"""Names of a model's weights: the digest in records, events and the registry, and the version that reports group by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

WEIGHTS = (".safetensors", ".bin", ".gguf")
"""Endings of the files in a model folder that hold weights."""
ENTRY = "model.json"
"""The registry's entry beside the weights: `sha256` maps each of their files to its digest."""
_REVISION = re.compile(r"([0-9a-f]{16})\+[0-9a-f]{1,15}")
COMPLETE = "_complete.json"
"""The manifest of a published folder: the folder is finished if and only if it has one."""


def digest_of(files: Mapping[str, str]) -> str:
    """Return one digest for `{file name: sha256}`.

    A single file keeps its own sha256. Several files get the sha256 of the list that `sha256sum` prints for them,
    sorted by name.
    """
    if len(files) == 1:
        return next(iter(files.values()))
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def model_version(digest: str) -> str:
    """Return the version that metrics and reports group by: the first 16 digits of a weights digest.

    A server that does not publish its weights reports a model name, such as "name:tag", in place of a digest; up to 200
    characters of it are kept.
    """
    return digest[:200] if ":" in digest else digest[:16]


def served_version(digest: str, revision: str = "") -> str:
    """Return the version by which a canary's cohorts are counted.

    It is the model version, with `revision` behind a `+` where the same weights are also served with other settings:
    `0123456789abcdef+0a1b2c3d4e5f`, at most 32 characters.
    """
    version = model_version(digest)
    return f"{version}+{revision}" if revision else version


def weights_of(version: str) -> str:
    """Return the model version of a served version."""
    found = _REVISION.fullmatch(version)
    return found[1] if found else version
