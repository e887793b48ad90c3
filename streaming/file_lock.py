"""A lock file that several processes share; the kernel frees it when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streaming.log import LogUnavailable


class FileLock:
    """One holder of a lock file. Two objects on one file exclude each other, within a process as between several."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self, *, wait: bool) -> bool:
        """Take the lock; return False if another object holds it and `wait` is False.

        Raises:
            LogUnavailable: if the file cannot be opened or locked.
        """
        if self._descriptor is not None:
            return True
        descriptor = -1
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise LogUnavailable(f"{self.path}: {error.strerror}: use a writable file system with locks") from error
        self._descriptor = descriptor
        return True

    def free(self) -> None:
        """Release the lock, if this object holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Hold the lock while the context is entered; wait for it first. LogUnavailable of `take` propagates."""
        self.take(wait=True)
        try:
            yield
        finally:
            self.free()
