"""Builds by buildah: targets of the Containerfile into local images, and those into an OCI image layout."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechanism.errors import AuctionError, ConfigError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "images"
EPOCH = 315532800
"""1980, the first year of a zip archive: the time of all files, so that equal contents have equal digests."""
PACKAGES = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
# Options of pip that say where packages come from; all others are the images' own.
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
AUTHORITIES = "/run/authorities.pem"
REFERENCE = "org.opencontainers.image.ref.name"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class BuildFailed(AuctionError):
    """A command of a build failed; its output is above."""


def image_name(target: str) -> str:
    """Return the name of a target's image as the charts' values have it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return f"llm-auction-{target}:{project['version']}"


def epoch() -> int:
    """Return the time that files in images have, in seconds since 1970: SOURCE_DATE_EPOCH or EPOCH."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH))


def check() -> None:
    """Check that this machine can build images.

    Raises:
        ConfigError: with what is missing, and how to get it.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ConfigError("user", "not root on Linux", "run `make images` as root: images hold files of several users")
    missing = [package for name, package in PACKAGES.items() if shutil.which(name) is None]
    if missing:
        raise ConfigError("programs", ", ".join(missing), f"`apt-get install {' '.join(missing)}` (Debian, Ubuntu)")


def run(command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    """Run a command whose output goes to the terminal.

    Raises:
        BuildFailed: if it fails.
    """
    done = subprocess.run(command, env=env, cwd=ROOT, check=False)
    if done.returncode:
        raise BuildFailed(f"`{' '.join(command[:2])}` failed with exit code {done.returncode}: its output says why")


def read(command: Sequence[str]) -> str:
    """Run a command and return what it prints.

    Raises:
        BuildFailed: if it fails, with its last line.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise BuildFailed(f"`{' '.join(command[:2])}` failed with exit code {done.returncode}: {last}")
    return done.stdout.strip()


def exists(reference: str) -> bool:
    """Return whether this machine has an image."""
    command = ["buildah", "inspect", "--type", "image", reference]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def image_id(reference: str) -> str:
    """Return the digest of an image's configuration, which names the contents of all of its layers."""
    return read(["buildah", "inspect", "--type", "image", "--format", "{{.FromImageID}}", reference])


def commit_tar(tar: Path, reference: str) -> None:
    """Make an image of one layer from the tar of a root folder."""
    container = read(["buildah", "from", "scratch"])
    try:
        run(["buildah", "add", "--quiet", container, str(tar), "/"])
        options = ["--quiet", "--identity-label=false", f"--timestamp={epoch()}"]
        run(["buildah", "commit", *options, container, reference])
    finally:
        run(["buildah", "rm", container])


@contextmanager
def mounted(reference: str) -> Iterator[Path]:
    """Mount an image, and return its root folder."""
    container = read(["buildah", "from", "--pull-never", reference])
    try:
        yield Path(read(["buildah", "mount", container]))
    finally:
        read(["buildah", "rm", container])


def build(target: str, reference: str, arguments: Mapping[str, str], secrets: Mapping[str, Path], cache: bool) -> None:
    """Build a target of the Containerfile."""
    run(
        [
            *("buildah", "bud", "--isolation=chroot", "--pull-never", "--identity-label=false"),
            # with --no-cache layers are still separate, as they are with a cache
            *("--layers", *([] if cache else ["--no-cache"])),
            f"--timestamp={epoch()}",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *(f"--secret=id={name},src={path}" for name, path in secrets.items()),
            f"--target={target}",
            f"--tag={reference}",
            ".",
        ]
    )


def pip_secrets(folder: Path) -> dict[str, Path]:
    """Write this machine's sources of packages for builds, where no layer keeps them: name of a secret to its file."""
    found: dict[str, str] = {}
    lines = read([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    # variables of the environment win over files
    for line in sorted(lines, key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = str(ast.literal_eval(value))
    settings = {name: found[name] for name in PIP_OPTIONS if name in found}
    secrets: dict[str, Path] = {}
    if authorities := found.get("cert"):
        secrets["authorities"] = Path(authorities)
        settings["cert"] = AUTHORITIES
    # as pip reads it: a per cent sign is one, and several addresses stand on lines of their own
    configuration = RawConfigParser()
    configuration["global"] = settings
    secrets["pip"] = folder / "pip.conf"
    with secrets["pip"].open("w", encoding="utf-8") as file:
        configuration.write(file)
    return secrets


def export(reference: str, layout: Path) -> str:
    """Add the blobs of an image to an OCI layout, and return the digest of its manifest.

    Layers are not compressed: those that images share are written once, and no version of a compressor decides on
    their digests. A registry's client compresses them when it pushes.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    # by way of buildah's own folder format, because it always compresses the layers of a layout
    with tempfile.TemporaryDirectory(prefix=".push-", dir=layout) as folder:
        run(["buildah", "push", "--quiet", "--disable-compression", "--format=oci", reference, f"dir:{folder}"])
        manifest = (Path(folder) / "manifest.json").read_bytes()
        for path in Path(folder).iterdir():
            if re.fullmatch("[0-9a-f]{64}", path.name):
                path.replace(blobs / path.name)
    digest = hashlib.sha256(manifest).hexdigest()
    (blobs / digest).write_bytes(manifest)
    return f"sha256:{digest}"


def write_index(layout: Path, digests: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Make a layout hold these images (manifests' digests by name) and no other; return their layers by name.

    `manifest.json` lists them as Docker's archives do. containerd reads it where `oci-layout` is missing, and completes
    the names to those by which a kubelet looks for an image.
    """
    manifests: list[dict[str, Any]] = []
    archived: list[dict[str, Any]] = []
    layers: dict[str, list[dict[str, Any]]] = {}
    needed: set[str] = set()
    for name, digest in sorted(digests.items()):
        content = (layout / _place(digest)).read_bytes()
        manifest = json.loads(content)
        annotations = {REFERENCE: name}
        described = {"mediaType": MANIFEST, "digest": digest, "size": len(content), "annotations": annotations}
        manifests.append(described)
        config, *blobs = (_place(one["digest"]) for one in (manifest["config"], *manifest["layers"]))
        archived.append({"Config": config, "RepoTags": [name], "Layers": blobs})
        layers[name] = manifest["layers"]
        needed |= {one["digest"] for one in (described, manifest["config"], *manifest["layers"])}
    index = {"schemaVersion": 2, "manifests": manifests}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")
    (layout / "index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    (layout / "manifest.json").write_text(json.dumps(archived, indent=2), encoding="utf-8")
    for blob in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in needed:
            blob.unlink()
    return layers


def _place(digest: str) -> str:
    """Return the path of a blob in its layout."""
    return f"blobs/{digest.replace(':', '/')}"
