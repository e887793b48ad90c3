"""Container images built from files of this machine, without a registry.

An image is written as a tar in the layout of the Open Container Initiative, which `ctr images import` reads.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_TYPE = "application/vnd.oci.image"


def pause(program: Path) -> bytes:
    """Return the layer of an image with one static program, `/pause`."""
    layer = _Layer()
    layer.file("pause", program.read_bytes(), 0o755)
    return layer.finish()


def skeleton() -> bytes:
    """Return the layer of an image without programs: folders, links and users of a system whose `/usr` is mounted."""
    layer = _Layer()
    for name in ("usr", "etc", "proc", "sys", "dev", "run", "root", "var"):
        layer.folder(name)
    layer.folder("tmp", 0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        layer.link(name, f"usr/{name}")
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
    layer.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    return layer.finish()


def write(
    target: Path,
    layer: bytes,
    names: Sequence[str],
    *,
    entrypoint: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Write an image of one layer under its full names (`llm-auction.io/pause:1`)."""
    blobs = dict([_blob(layer)])
    config = {
        "os": "linux",
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "config": {
            "Entrypoint": list(entrypoint),
            "Env": [f"{name}={value}" for name, value in (environment or {}).items()],
            "WorkingDir": "/",
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": _described(blobs, json.dumps(config).encode(), f"{_TYPE}.config.v1+json"),
        "layers": [_described(blobs, layer, f"{_TYPE}.layer.v1.tar")],
    }
    described = _described(blobs, json.dumps(manifest).encode(), f"{_TYPE}.manifest.v1+json")
    index = {
        "schemaVersion": 2,
        "manifests": [{**described, "annotations": {"io.containerd.image.name": name}} for name in names],
    }
    layout = _Layer()
    layout.file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    layout.file("index.json", json.dumps(index).encode())
    for digest, content in blobs.items():
        layout.file(f"blobs/sha256/{digest}", content)
    target.write_bytes(layout.finish())


def select(layout: Path, names: Sequence[str], target: Path) -> None:
    """Create an archive's folder, of links, with the named images of a layout (`llm-auction-router:0.1.0`).

    Raises:
        KeyError: if the layout lacks an image.
    """
    known = {one["RepoTags"][0]: one for one in json.loads((layout / "manifest.json").read_text("utf-8"))}
    chosen = [known[name] for name in names]
    (target / "blobs" / "sha256").mkdir(parents=True)
    for place in {place for one in chosen for place in (one["Config"], *one["Layers"])}:
        (target / place).symlink_to((layout / place).absolute())
    (target / "manifest.json").write_text(json.dumps(chosen), encoding="utf-8")


def _blob(content: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(content).hexdigest(), content


def _described(blobs: dict[str, bytes], content: bytes, kind: str) -> dict[str, Any]:
    """Add a blob and return its descriptor."""
    digest, _ = _blob(content)
    blobs[digest] = content
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


class _Layer:
    """A reproducible tar: no times, no users."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._bytes, mode="w")

    def folder(self, name: str, mode: int = 0o755) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
        self._tar.addfile(entry)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), mode
        self._tar.addfile(entry, io.BytesIO(content))

    def finish(self) -> bytes:
        self._tar.close()
        return self._bytes.getvalue()
