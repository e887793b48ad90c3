"""A folder that becomes visible whole or not at all, with a manifest of its files, on a disk or in an object store.

Writers fill a local staging folder. On a disk it is renamed into place; in an object store its files are uploaded and
the manifest last. The next writer removes what a killed one left. The content of a folder is left to the callers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mechanism.errors import AuctionError, InputError
from mechanism.weights import COMPLETE
from trainers.artifacts.locks import Check, hold_file
from trainers.artifacts.store import Store, sync, temporaries, temporary

UPLOADING = "_uploading.json"
"""Object that lists what an upload is about to write, so that the next writer can remove it after a kill."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size in bytes and digest of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files by name relative to the folder, the time it was finished (UTC), and the seconds its writer took."""

    finished: str
    seconds: float
    files: Mapping[str, FileFacts]

    def encode(self) -> bytes:
        """Encode the manifest as JSON."""
        return (json.dumps({"version": 1, **asdict(self)}, indent=2, sort_keys=True) + "\n").encode()

    @staticmethod
    def decode(data: bytes, place: str) -> Manifest:
        """Decode a manifest; `place` names it in errors.

        Raises:
            InputError: if `data` is not a manifest.
        """
        try:
            fields = json.loads(data)
            files = {name: FileFacts(**facts) for name, facts in fields["files"].items()}
            return Manifest(fields["finished"], fields["seconds"], files)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            remedy = "the manifest is damaged: remove the folder and write it again"
            raise InputError(place, str(error), remedy) from error


class Publication:
    """One published folder; `relative` names it below the store's root."""

    def __init__(self, store: Store, relative: str) -> None:
        self.store = store
        self.relative = relative
        self.url = store.place(relative)
        self._local = store.workspace / relative
        store.path(relative)

    def finished(self) -> bool:
        """Return whether the folder is there, whole."""
        return self.store.exists(f"{self.relative}/{COMPLETE}")

    def manifest(self) -> Manifest:
        """Read the manifest. InputError if the folder is not finished or its manifest is damaged."""
        return Manifest.decode(self._manifest_data(), f"{self.url}/{COMPLETE}")

    @contextmanager
    def open(self) -> Iterator[Path]:
        """Yield an empty local folder to fill; its content is published when the block ends.

        After an exception or a kill nothing is visible.

        Raises:
            InputError: if the folder is finished already, another process is writing it, or its name is occupied.
        """
        begun = time.monotonic()
        with self.store.hold(self.relative) as check:
            if self.finished():
                raise InputError(self.url, "finished", "a finished folder is never written again: give another name")
            self._remove_leftovers()
            self._refuse_foreign_files()
            staging = temporary(self._local)
            staging.mkdir(parents=True)
            try:
                yield staging
                manifest = Manifest(
                    datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic() - begun, describe(staging)
                )
                check()
                if self.store.is_local:
                    put_in_place(staging, manifest.encode(), self._local)
                else:
                    self._upload(staging, manifest, check)
                    with self._cache_held():
                        self._keep_copy(staging, manifest.encode())
            finally:
                shutil.rmtree(staging, ignore_errors=True)

    def fetch(self) -> Path:
        """Return the finished folder as a local one, read-only: itself on a disk, else a copy in the cache.

        InputError if it is not finished, AuctionError if a downloaded file differs from its manifest.
        """
        data = self._manifest_data()
        if self.store.is_local:
            return self._local
        with self._cache_held():
            cached = self._local / COMPLETE
            if cached.is_file() and cached.read_bytes() == data:
                return self._local
            self._download(data)
        return self._local

    def verify(self) -> tuple[str, ...]:
        """Read the whole folder and return every damaged or missing file as "name: fault"; empty if there is none.

        InputError if the folder is not finished.
        """
        return damage(self.manifest(), lambda name: self.store.open(f"{self.relative}/{name}"))

    def tidy(self) -> None:
        """Remove what a writer left that was killed just after publishing; does nothing while a writer is at work."""
        with suppress(InputError), self.store.hold(self.relative, wait_s=0.0):
            if self.finished():
                self._remove_leftovers()

    def _manifest_data(self) -> bytes:
        if not self.finished():
            raise InputError(self.url, "not finished", "run the step that writes it")
        return self.store.read(f"{self.relative}/{COMPLETE}")

    def _remove_leftovers(self) -> None:
        """Remove what a killed writer left, by our own names only. The caller holds the lock: no writer is alive."""
        for leftover in temporaries(self._local):
            shutil.rmtree(leftover, ignore_errors=True)
        marker = f"{self.relative}/{UPLOADING}"
        if not self.store.is_local and self.store.exists(marker):
            for name in () if self.finished() else json.loads(self.store.read(marker)):
                with suppress(FileNotFoundError):
                    self.store.fs.rm_file(self.store.path(f"{self.relative}/{name}"))
            self.store.fs.rm_file(self.store.path(marker))

    def _refuse_foreign_files(self) -> None:
        """Refuse files under the final name that no writer left.

        Raises:
            InputError: if there are any: they would be mixed with those to come.
        """
        if self.store.is_local:
            foreign = sorted(os.listdir(self._local)) if self._local.is_dir() else []
        else:
            # Some remote file systems keep empty folders where objects were removed.
            foreign = self.store.files(self.relative)
        if foreign:
            raise InputError(
                self.url, ", ".join(foreign[:5]), f"this folder has no {COMPLETE}: move it away, then start again"
            )

    def _upload(self, staging: Path, manifest: Manifest, check: Check) -> None:
        """Upload objects first and the manifest last; check the lock again before it, since an upload takes long."""
        self.store.write(f"{self.relative}/{UPLOADING}", json.dumps(list(manifest.files)).encode())
        for name in manifest.files:
            self.store.fs.put_file(str(staging / name), self.store.path(f"{self.relative}/{name}"))
        check()
        self.store.write(f"{self.relative}/{COMPLETE}", manifest.encode())
        self.store.fs.rm_file(self.store.path(f"{self.relative}/{UPLOADING}"))

    def _cache_held(self) -> AbstractContextManager[Check]:
        """Hold the cached copy: processes of this machine that fetch the same folder wait for each other."""
        lock = self._local.with_name(f".{self._local.name}.lock")
        return hold_file(lock, str(self._local), wait_s=float("inf"))

    def _keep_copy(self, staging: Path, manifest: bytes) -> None:
        """Make a local folder the cached copy, replacing that of a folder that was removed and written again."""
        shutil.rmtree(self._local, ignore_errors=True)
        put_in_place(staging, manifest, self._local)

    def _download(self, data: bytes) -> None:
        """Replace the cached copy by the published files, each checked on arrival.

        Raises:
            AuctionError: if a file differs from the manifest.
        """
        # Another name than a writer's staging folder, which a reader must not remove.
        arriving = self._local.with_name(f"{self._local.name}.arriving")
        for leftover in temporaries(arriving):
            shutil.rmtree(leftover, ignore_errors=True)
        manifest = Manifest.decode(data, f"{self.url}/{COMPLETE}")
        staging = temporary(arriving)
        staging.mkdir(parents=True)
        try:
            for name in manifest.files:
                source = self.store.path(f"{self.relative}/{name}")  # refuses names that leave the root
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    self.store.fs.get_file(source, str(staging / name))
            problems = damage(manifest, lambda name: (staging / name).open("rb"))
            if problems:
                raise AuctionError(f"{self.url}: {'; '.join(problems)}: restore the folder or write it again")
            self._keep_copy(staging, data)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, manifest: bytes, final: Path) -> None:
    """Give a filled local folder its manifest and its final name; all is on the disk before the name is there.

    Every file gets the permissions that the umask allows: some libraries write weights that only their own user can
    read, and a model is served by another user.
    """
    (staging / COMPLETE).write_bytes(manifest)
    mode = stat.S_IMODE((staging / COMPLETE).stat().st_mode)
    for folder, _, names in os.walk(staging):
        for name in names:
            (Path(folder) / name).chmod(mode)
            sync(Path(folder) / name)
        sync(Path(folder))
    os.rename(staging, final)
    sync(final.parent)


def describe(folder: Path) -> dict[str, FileFacts]:
    """Return size and digest of every file below a folder.

    Raises:
        InputError: for a link, or a file with the name of a manifest.
    """
    facts = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or name in (COMPLETE, UPLOADING):
            raise InputError(str(path), name, "write plain files only, under another name")
        if path.is_file():
            with path.open("rb") as file:
                facts[name] = FileFacts(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return facts


def damage(manifest: Manifest, opener: Callable[[str], IO[bytes]]) -> tuple[str, ...]:
    """Return the files that are missing or differ from the manifest, each as "name: fault"."""
    problems = []
    for name, facts in manifest.files.items():
        digest = hashlib.sha256()
        size = 0
        try:
            with opener(name) as file:
                while chunk := file.read(1 << 20):
                    size += len(chunk)
                    digest.update(chunk)
        except FileNotFoundError:
            problems.append(f"{name}: missing")
            continue
        if size != facts.size:
            problems.append(f"{name}: {size} bytes, {facts.size} expected")
        elif digest.hexdigest() != facts.sha256:
            problems.append(f"{name}: sha256 {digest.hexdigest()[:12]}…, {facts.sha256[:12]}… expected")
    return tuple(problems)
