"""A root at any fsspec URL: small files written whole, names listed, locks held; and JSON text of values."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from mechanism.errors import InputError
from mechanism.files import replace_file
from trainers.artifacts.locks import Check, hold_file, hold_object

WRITING = ".writing-"
"""Part of every temporary name: `.policy.writing-3f2a…` is an unfinished `policy`."""
LOCKS = ".locks"
CACHE_VARIABLE = "LLM_AUCTION_CACHE"


class Store:
    """The files under one URL. Relative names use "/" and never leave the root.

    `cache` holds local copies of remote content (default: $LLM_AUCTION_CACHE, else the user's cache folder); `wait_s`
    is how long to wait for a lock that another process holds, unless a caller gives another time. InputError for a URL
    whose protocol is unknown or not installed.
    """

    def __init__(self, url: str | os.PathLike[str], cache: Path | None = None, wait_s: float = 0.0) -> None:
        self.url = os.fspath(url)
        self.wait_s = wait_s
        if not self.url:
            raise InputError("url", self.url, "give a folder or an fsspec URL such as s3://bucket/run")
        try:
            # A listing cache would hide what another machine has just finished.
            self.fs, self.root = cast("tuple[Any, str]", fsspec.url_to_fs(self.url, use_listings_cache=False))
        except ImportError as error:
            raise InputError("url", self.url, f"its protocol needs a package that is not installed: {error}") from error
        except ValueError as error:
            raise InputError("url", self.url, f"give a folder or an fsspec URL: {error}") from error
        protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
        self.is_local = "file" in protocols
        self.root = self.root.rstrip("/")
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.workspace = Path(self.root) if self.is_local else (cache or default_cache()) / digest
        """Local folder for work in progress: the root itself, or the cache's folder for this URL."""

    def path(self, relative: str) -> str:
        """Return the file system's path of a relative name.

        Raises:
            InputError: if it would leave the root.
        """
        if any(part in ("", ".", "..") for part in relative.split("/")) or "\\" in relative:
            raise InputError("relative name", relative, "give names below the root, separated by /")
        return f"{self.root}/{relative}"

    def place(self, relative: str) -> str:
        """Return a relative name as error messages show it."""
        return f"{self.url.rstrip('/')}/{relative}"

    def exists(self, relative: str) -> bool:
        """Return whether a file or folder of that name is there; unlike fsspec's, a failed request is an error."""
        try:
            self.fs.info(self.path(relative))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def children(self, relative: str = "") -> list[str]:
        """Return the sorted names directly below a folder, without hidden ones; none if there is no such folder."""
        try:
            found = self.fs.ls(self.path(relative) if relative else self.root, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {str(name).rstrip("/").rpartition("/")[2] for name in found}
        return sorted(name for name in names if name and not name.startswith("."))

    def files(self, relative: str) -> list[str]:
        """Return the sorted names of all files below a folder, relative to it; none if there is no such folder."""
        path = self.path(relative)
        return sorted(str(name).removeprefix(path).strip("/") for name in self.fs.find(path))

    def read(self, relative: str) -> bytes:
        """Read a file.

        Raises:
            InputError: if it is not there.
        """
        try:
            return bytes(self.fs.cat_file(self.path(relative)))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            remedy = "check the URL, or run the step that writes it"
            raise InputError(self.place(relative), "no such file", remedy) from error

    def open(self, relative: str) -> IO[bytes]:
        """Open a file for reading."""
        return cast("IO[bytes]", self.fs.open(self.path(relative), "rb"))

    def write(self, relative: str, data: bytes) -> None:
        """Write a file whole or not at all, replacing an earlier one.

        Raises:
            InputError: if it cannot be written.
        """
        path = self.path(relative)
        try:
            if self.is_local:
                replace_file(Path(path), data)
            else:
                self.fs.pipe_file(path, data)
        except OSError as error:
            shown = error.strerror or str(error)
            raise InputError(self.place(relative), shown, "give a place that can be written") from error

    def remove(self, relative: str) -> None:
        """Remove a folder with its content, or do nothing if there is none."""
        with suppress(FileNotFoundError):
            self.fs.rm(self.path(relative), recursive=True)

    def hold(self, relative: str = "", wait_s: float | None = None) -> AbstractContextManager[Check]:
        """Hold the lock of `relative`, or of the root (which does not lock what is below it).

        InputError names the holder if another process has it for longer than `wait_s` seconds (None: the store's).
        """
        wait_s = self.wait_s if wait_s is None else wait_s
        path = self.path(f"{LOCKS}/{relative.replace('/', '.') or '_root'}.lock")
        place = self.place(relative) if relative else self.url
        return hold_file(Path(path), place, wait_s) if self.is_local else hold_object(self.fs, path, place, wait_s)


def default_cache() -> Path:
    """Return the folder for local copies of remote content."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-auction"


def temporary(final: Path) -> Path:
    """Return a fresh hidden name beside `final`, on the same file system."""
    return final.with_name(f".{final.name}{WRITING}{uuid.uuid4().hex[:12]}")


def temporaries(final: Path) -> Iterator[Path]:
    """Yield the temporary names that earlier attempts at `final` left behind."""
    yield from final.parent.glob(f".{final.name}{WRITING}*")


def sync(path: Path) -> None:
    """Flush a local file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: object, place: str) -> str:
    """Encode a value as indented JSON text; `place` names it in errors.

    Raises:
        InputError: if JSON cannot hold the value, such as NaN.
    """
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise InputError(place, str(error), "write plain values; None for an undefined figure") from error


def from_json(data: bytes | str, place: str) -> Any:
    """Decode JSON text; `place` names it in errors.

    Raises:
        InputError: if `data` is not JSON.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(place, str(error), "the file is damaged: remove it and resume") from error
