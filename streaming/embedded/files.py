"""Files that several processes share: locks that the kernel frees when a process dies, and contents replaced whole."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streaming.log import LogUnavailable


class FileLock:
    """One lock file. Two `FileLock`s on one file exclude each other, in one process as between several."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def take(self, *, wait: bool, create: bool = True) -> bool:
        """Takes the lock; False where another has it and `wait` is False, or where there is no file and `create` is
        False. Raises LogUnavailable where the file cannot be locked at all."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError:
            if create:
                raise
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise LogUnavailable(f"{self.path}: {error.strerror}: use a file system with locks") from error
        self._descriptor = descriptor
        return True

    def free(self) -> None:
        """Gives the lock back, where it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Waits for the lock and holds it."""
        self.take(wait=True)
        try:
            yield
        finally:
            self.free()
