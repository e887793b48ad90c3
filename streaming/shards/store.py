"""The files of the shards on any fsspec URL: written whole, a manifest at most once per generation.

    manifests/0002/0000000017.json             partition 2, generation 17: the highest counts
    shards/day=2026-11-24/0002-....parquet     rows of one day and partition
    erasures/<pseudonym>.json                  whose data has to go

Two writers of one partition (one of them believed dead) exclude each other: each generation can be created once.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import fsspec
import msgspec
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from mechanism.errors import InputError
from streaming.log import Fenced
from streaming.shards.manifest import Manifest, Shard, Span, decode, encode

KEPT_GENERATIONS = 3
_MANIFESTS, _SHARDS, _ERASURES = "manifests", "shards", "erasures"


class ShardStore:
    """A folder of shards. Paths are relative to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise InputError("shards", url, f"{error}: give a folder, or a URL that fsspec knows") from None
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def partitions(self) -> tuple[int, ...]:
        """Those that have a manifest."""
        return tuple(sorted(int(name) for name in self._names(_MANIFESTS)))

    def manifest(self, partition: int) -> Manifest:
        """The newest manifest; an empty one before the first. Raises InputError for a damaged one."""
        folder = f"{_MANIFESTS}/{partition:04d}"
        while names := sorted(name for name in self._names(folder) if name.endswith(".json")):
            try:
                return decode(self.read(f"{folder}/{names[-1]}"))
            except FileNotFoundError:
                continue  # replaced meanwhile
            except msgspec.DecodeError as error:
                place = f"{self.url}/{folder}/{names[-1]}"
                raise InputError(place, "<manifest>", f"{error}: bring it back from a copy") from None
        return Manifest(partition=partition)

    def put_manifest(self, manifest: Manifest) -> Manifest:
        """Writes the next generation, which is given back. Raises Fenced where another writer was first."""
        new = msgspec.structs.replace(manifest, generation=manifest.generation + 1, written_at=datetime.now(UTC))
        folder = f"{_MANIFESTS}/{manifest.partition:04d}"
        try:
            self._create(f"{folder}/{new.generation:010d}.json", encode(new))
        except FileExistsError:
            raise Fenced(f"shards of partition {manifest.partition}: another worker writes them now") from None
        with suppress(OSError):  # old ones are no harm
            for name in sorted(name for name in self._names(folder) if name.endswith(".json"))[:-KEPT_GENERATIONS]:
                self.remove(f"{folder}/{name}")
        return new

    def put_shard(self, partition: int, table: Any, level: int, judgements: Iterable[Span]) -> Shard:
        """Writes a table of one day, sorted by the time of the auctions. It counts once a manifest lists it."""
        table = table.sort_by([("occurred_at", "ascending"), ("auction_id", "ascending"), ("revision", "ascending")])
        times, ids = table.column("occurred_at"), table.column("auction_id").to_pylist()
        first, last = times[0].as_py(), times[-1].as_py()
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", row_group_size=20_000)
        data = sink.getvalue()
        day = first.date().isoformat()
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        path = f"{_SHARDS}/day={day}/{partition:04d}-{stamp}-{uuid.uuid4().hex[:12]}.parquet"
        self._write(path, data)
        return Shard(
            path=path,
            day=day,
            level=level,
            rows=len(ids),
            usable=sum(table.column("usable").to_pylist()),
            clicks=sum(table.column("clicks").to_pylist()),
            first=first,
            last=last,
            lowest=min(ids),
            highest=max(ids),
            judgements=tuple(judgements),
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def table(self, shard: Shard, columns: list[str] | None = None, *, check: bool = False) -> Any:
        """A shard's rows. Raises InputError where its file is gone, or (with `check`) is not what was written."""
        try:
            data = self.read(shard.path)
        except FileNotFoundError:
            remedy = "it was replaced after you read the manifest: read again; else bring it back from a copy"
            raise InputError("shard", f"{self.url}/{shard.path}", remedy) from None
        if check and hashlib.sha256(data).hexdigest() != shard.sha256:
            raise InputError(
                "shard", f"{self.url}/{shard.path}", "its digest is another one: bring it back from a copy"
            )
        return pq.read_table(io.BytesIO(data), columns=columns)

    def files(self, partition: int) -> tuple[str, ...]:
        """Shard files of a partition, listed in a manifest or not."""
        found = []
        for day in self._names(_SHARDS):
            names = self._names(f"{_SHARDS}/{day}")
            found += [f"{_SHARDS}/{day}/{name}" for name in names if name.startswith(f"{partition:04d}-")]
        return tuple(found)

    def erasures(self) -> dict[str, bytes]:
        """What was put by `put_erasure`, by name."""
        found = {}
        for name in self._names(_ERASURES):
            if name.endswith(".json"):
                with suppress(FileNotFoundError):
                    found[name.removesuffix(".json")] = self.read(f"{_ERASURES}/{name}")
        return found

    def put_erasure(self, name: str, data: bytes) -> None:
        """Writes or replaces one."""
        self._write(f"{_ERASURES}/{name}.json", data)

    def drop_erasure(self, name: str) -> None:
        """Removes one."""
        self.remove(f"{_ERASURES}/{name}.json")

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError."""
        return bytes(self._fs.cat_file(f"{self._root}/{path}"))

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{path}")

    def _names(self, folder: str) -> list[str]:
        try:
            found = self._fs.ls(f"{self._root}/{folder}", detail=False, refresh=True)
        except FileNotFoundError:
            return []
        names = [str(path).rstrip("/").rsplit("/", 1)[-1] for path in found]
        return [name for name in names if not name.startswith(".")]

    def _write(self, path: str, data: bytes) -> None:
        """A whole file or none; on a disk it is durable afterwards."""
        if not self._local:
            self._fs.pipe_file(f"{self._root}/{path}", data)
            return
        draft = self._draft(path, data)
        os.replace(draft, f"{self._root}/{path}")
        _sync(os.path.dirname(f"{self._root}/{path}"))

    def _create(self, path: str, data: bytes) -> None:
        """As `_write`, but raises FileExistsError where there is one."""
        if not self._local:
            self._fs.pipe_file(f"{self._root}/{path}", data, mode="create")
            return
        draft = self._draft(path, data)
        try:
            os.link(draft, f"{self._root}/{path}")
        finally:
            os.unlink(draft)
        _sync(os.path.dirname(f"{self._root}/{path}"))

    def _draft(self, path: str, data: bytes) -> str:
        folder, name = os.path.split(f"{self._root}/{path}")
        os.makedirs(folder, exist_ok=True)
        draft = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return draft


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
