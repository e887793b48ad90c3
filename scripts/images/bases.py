"""The images that the Containerfile starts from, made of Debian's packages by mmdebstrap."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts.images import buildah

SUITE = "bookworm"
OPTIONS = (
    "--mode=root",
    # what Debian calls essential, without apt
    "--variant=essential",
    # the folder is thrown away when the machine fails
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    # the licences
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    # no program gets another user's rights
    '--customize-hook=find "$1" -xdev -type f -perm /6000 -exec chmod a-s {} +',
)


@dataclass(frozen=True, slots=True)
class Base:
    """A base image: its name, and the packages beside the essential ones, each with a reason in BASES."""

    name: str
    packages: tuple[str, ...]

    @property
    def reference(self) -> str:
        """The image's name; the tag changes with the recipe."""
        recipe = json.dumps([SUITE, OPTIONS, self.packages, buildah.epoch()])
        return f"localhost/llm-auction-{self.name}:{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


RUNTIME = Base(
    "base",
    (
        "python3",
        "tzdata",  # campaigns and readers have time zones; the wheel of that name is locked for Windows alone
        "ca-certificates",  # connections to stores, judges and brokers are verified
        "libstdc++6",  # torch, pyarrow, gRPC and Triton
        "libpython3.11",  # Triton's Python backend
        "libibverbs1",  # NCCL over InfiniBand ...
        "ibverbs-providers",  # ... with the drivers of the adapters
    ),
)
BUILD = Base("build-base", ("python3", "ca-certificates", "python3-venv"))


def prepare(base: Base, refresh: bool) -> str:
    """Make a base image, unless this machine has it, and return its name.

    `refresh` makes it again, with the packages that the distribution has now.
    """
    if not refresh and buildah.exists(base.reference):
        return base.reference
    command = ["mmdebstrap", *OPTIONS, f"--include={','.join(base.packages)}", SUITE]
    with tempfile.TemporaryDirectory(prefix="llm-auction-") as folder:
        tar = Path(folder) / "root.tar"
        buildah.run([*command, str(tar)], env={**os.environ, "SOURCE_DATE_EPOCH": str(buildah.epoch())})
        buildah.commit_tar(tar, base.reference)
    return base.reference
