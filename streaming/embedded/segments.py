"""The files of one partition: segments named by their first offset, one appender at a time, any number of readers.

A batch is one write and one sync. What a killed appender left of one is cut off by the next process that looks, under
the lock; a damaged frame that undamaged ones follow is no such remnant and stops it with LogCorrupt. Nobody reads what
is not durable yet, so that no consumer knows a record which a power failure takes back.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mechanism.files import sync_folder
from streaming.embedded.files import FileLock
from streaming.embedded.frames import (
    HEAD_BYTES,
    Frame,
    decode_frame,
    encode_frame,
    frame_end,
    frame_offset,
    later_frame,
    wanted_bytes,
    whole_frames,
)
from streaming.log import Headers, LogCorrupt, LogUnavailable

SUFFIX = ".log"
CHUNK = 1 << 20

Entry = tuple[bytes, bytes | None, Headers]
"""Key, value and headers of what is to be appended."""


def segment_path(folder: Path, base: int) -> Path:
    """The segment whose first offset is `base`."""
    return folder / f"{base:020d}{SUFFIX}"


def bases(folder: Path) -> list[int]:
    """First offsets of the segments, in order; the last one is written to."""
    return sorted(int(name[: -len(SUFFIX)]) for name in os.listdir(folder) if name.endswith(SUFFIX))


def damaged(path: Path, at: int) -> LogCorrupt:
    """The error for a segment that is damaged before its end."""
    return LogCorrupt(f"{path} at byte {at}: damaged, and not by a crash: restore the file, or move it away")


class Appender:
    """Writes to one partition; belongs to one thread at a time. `durable` syncs before anything counts as written."""

    def __init__(self, folder: Path, *, durable: bool, segment_bytes: int) -> None:
        self.folder = folder
        self._durable = durable
        self._segment_bytes = segment_bytes
        self.lock = FileLock(folder / "lock")
        self._base, self._size, self._next = -1, 0, 0
        self._file: int | None = None

    def append(self, entries: Sequence[Entry], timestamp_ms: int) -> tuple[int, bool]:
        """Appends a batch; the offset of its first record, and whether a segment was ended. Raises LogUnavailable
        where it could not be written: then nothing of it was."""
        try:
            with self.lock.holding():
                file = self._caught_up()
                first = self._next
                frames = [encode_frame(Frame(first + i, timestamp_ms, *entry)) for i, entry in enumerate(entries)]
                self._write(file, b"".join(frames))
                self._next = first + len(entries)
                ended = self._size >= self._segment_bytes
                if ended:
                    self._begin(self._next)
                return first, ended
        except OSError as error:
            raise LogUnavailable(f"{self.folder}: {error.strerror}: see to its disk") from error

    def end(self) -> int:
        """The offset after the newest record. Cuts off what a killed appender left."""
        with self.lock.holding():
            self._caught_up()
            return self._next

    def end_segment(self, before_ms: int) -> None:
        """Ends the newest segment if its first record is older, so that it can be cleaned. Called under the lock."""
        file = self._caught_up()
        data = os.pread(file, CHUNK, 0)
        start, end = next(whole_frames(data), (0, 0))
        if end and decode_frame(data, start).timestamp_ms < before_ms:
            self._begin(self._next)

    def mend_if_free(self) -> None:
        """Cuts off what a killed appender left, unless somebody is appending. Raises LogCorrupt."""
        if self.lock.take(wait=False):
            try:
                self._base = -1
                self._caught_up()
            finally:
                self.lock.free()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
        self._file, self._base = None, -1

    def _caught_up(self) -> int:
        """Reads on to the end of the newest segment, which others may have written; its file."""
        known = bases(self.folder)
        if not known:
            return self._begin(0)
        if known[-1] != self._base or self._file is None:
            self._open(known[-1])
        assert self._file is not None
        size = os.fstat(self._file).st_size
        if size < self._size:  # another process cut it
            self._size, self._next = 0, self._base
        if size > self._size:
            self._read_on(self._file, size)
        return self._file

    def _read_on(self, file: int, size: int) -> None:
        data = os.pread(file, size - self._size, self._size)
        end = 0
        for start, end in whole_frames(data):  # noqa: B007 -- the last end counts
            self._next = frame_offset(data, start) + 1
        self._size += end
        if end == len(data):
            return
        if later_frame(data, end):
            raise damaged(segment_path(self.folder, self._base), self._size)
        os.ftruncate(file, self._size)
        self._sync(file)

    def _write(self, file: int, data: bytes) -> None:
        view, at = memoryview(data), self._size
        try:
            while view:
                written = os.pwrite(file, view, at)
                view, at = view[written:], at + written
            self._sync(file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, self._size)
            raise
        self._size = at

    def _begin(self, base: int) -> int:
        """Starts a segment."""
        path = segment_path(self.folder, base)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        if self._durable:
            sync_folder(self.folder)
        return self._open(base)

    def _open(self, base: int) -> int:
        self.close()
        self._file = os.open(segment_path(self.folder, base), os.O_RDWR)
        self._base, self._size, self._next = base, 0, base
        return self._file

    def _sync(self, file: int) -> None:
        if self._durable:
            os.fdatasync(file)


class Reader:
    """Reads one partition from an offset on; belongs to one thread."""

    def __init__(self, folder: Path, offset: int, *, durable: bool) -> None:
        self.folder = folder
        self.offset = offset
        self._durable = durable
        self._file: int | None = None
        self._base = 0
        self._at = 0
        self._stuck = False

    def read(self, most: int) -> list[Frame]:
        """The next records, at most `most`; `offset` goes on after them. Raises LogCorrupt."""
        if self._file is None and not self._find():
            return []
        frames = self._frames(most)
        while not frames:
            later = [base for base in bases(self.folder) if base > self._base]
            # Looked at once more: what came in between is in this segment, and then it was ended.
            frames = self._frames(most)
            if frames:
                break
            if not later:
                self._mend()
                return []
            self._check_whole()
            self._open(later[0])
            frames = self._frames(most)
        self._stuck = False
        if self._durable and self._file is not None:
            os.fdatasync(self._file)
        self.offset = frames[-1].offset + 1
        return frames

    def seek(self, offset: int) -> None:
        """Goes on at an offset."""
        self.close()
        self.offset = offset

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _find(self) -> bool:
        """Opens the segment that holds the offset, or the oldest one."""
        while True:
            known = bases(self.folder)
            if not known:
                return False
            base = max((b for b in known if b <= self.offset), default=known[0])
            try:
                self._open(base)
            except FileNotFoundError:
                continue  # it was just removed for its age
            return True

    def _open(self, base: int) -> None:
        self.close()
        self._file = os.open(segment_path(self.folder, base), os.O_RDONLY)
        self._base, self._at = base, 0

    def _frames(self, most: int) -> list[Frame]:
        assert self._file is not None
        found: list[Frame] = []
        while not found:
            data = os.pread(self._file, CHUNK, self._at)
            if len(data) >= HEAD_BYTES and wanted_bytes(data, 0) > len(data) == CHUNK:
                data = os.pread(self._file, wanted_bytes(data, 0), self._at)
            done = 0
            for start, done in whole_frames(data):  # noqa: B007 -- the last end counts
                if frame_offset(data, start) >= self.offset:
                    found.append(decode_frame(data, start))
                    if len(found) == most:
                        break
            self._at += done
            if done == 0:
                break
        return found

    def _mend(self) -> None:
        """Bytes that stay unreadable between two looks may be what a killed appender left."""
        assert self._file is not None
        behind = os.fstat(self._file).st_size > self._at
        if behind and self._stuck:
            appender = Appender(self.folder, durable=self._durable, segment_bytes=CHUNK)
            try:
                appender.mend_if_free()
            finally:
                appender.close()
        self._stuck = behind

    def _check_whole(self) -> None:
        assert self._file is not None
        rest = os.pread(self._file, CHUNK, self._at)
        if rest and frame_end(rest, 0) is None:
            raise damaged(segment_path(self.folder, self._base), self._at)
