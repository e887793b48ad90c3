"""One writer at a time: a lock on a file of this machine, or a lease kept as an object in a remote store.

A lock records its holder, so that a refusal can name the process. Cleaning up what a killed holder left is the callers'
work (`trainers.artifacts.publication`, `trainers.artifacts.run_directory`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from mechanism.errors import AuctionError, BusyError, InputError

log = structlog.get_logger(__name__)

LEASE_S = 300.0
"""Seconds without renewal after which a remote lock counts as abandoned."""
RENEW_S = 60.0
POLL_S = 0.05

Check = Callable[[], None]
"""Raises AuctionError if another process took the lock over; call it before making a result visible."""

_held: set[int] = set()


def _leave_locks_to_the_parent() -> None:
    """Close inherited locks in a forked worker: one that outlives a killed trainer must not keep them."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock; times are seconds since 1970.

    `started` distinguishes the process from a later one with the same id, `nonce` two locks of one process.
    """

    host: str
    pid: int
    started: str
    nonce: str
    since: float
    renewed: float

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.since, UTC).isoformat(timespec="seconds")
        return f"held by process {self.pid} on {self.host.split(' ')[0]} since {since}"

    def encode(self) -> bytes:
        """Encode the holder as JSON."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Holder | None:
        """Decode a holder; None for a lock that is just being written, or a damaged one."""
        try:
            return Holder(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def is_gone(self, now: float) -> bool:
        """Return whether the holder has ended: its process on this host is gone, or its lease ran out."""
        mine = this_process()
        if self.host == mine.host:
            return start_of(self.pid) != self.started
        return now - self.renewed > LEASE_S


def this_process() -> Holder:
    """Return this process as the holder of a new lock."""
    # Containers may share a host name but have process ids of their own.
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    now = time.time()
    host = f"{socket.gethostname()} {namespace}".strip()
    return Holder(host, os.getpid(), start_of(os.getpid()), uuid.uuid4().hex, now, now)


def start_of(pid: int) -> str:
    """Return when process `pid` of this host started, in the kernel's ticks.

    "running" where the kernel does not report it; "gone" where there is no such process, or only a zombie.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "gone"
    except PermissionError:
        pass
    try:
        # The second field is the command in parentheses, which may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "running"
    return "gone" if fields[0] in ("Z", "X") else fields[19]


def _refusal(holder: Holder | None, lock: str) -> tuple[str, str]:
    """Return what an error shows of a lock that another process holds, and the remedy."""
    return str(holder) if holder else "held by another process", f"wait for that process or stop it; its lock is {lock}"


@contextmanager
def hold_file(path: Path, place: str, wait_s: float = 0.0) -> Iterator[Check]:
    """Hold the lock file `path`; the kernel frees it when the process ends, however it ends.

    `place` names in the error what is locked.

    Raises:
        BusyError: if another process holds it for longer than `wait_s` seconds.
        InputError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(str(path), error.strerror, "give a place that can be written") from error
    _held.add(descriptor)
    try:
        deadline = time.monotonic() + wait_s
        while not _locked(descriptor, path):
            if time.monotonic() >= deadline:
                raise BusyError(place, *_refusal(Holder.decode(path.read_bytes()), str(path)))
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, this_process().encode(), 0)
        yield lambda: None
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(descriptor: int, path: Path) -> bool:
    """Try once to lock the file.

    Raises:
        InputError: if the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(str(path), error.strerror, "use a file system with locks, or an object store's URL") from error
    return True


@contextmanager
def hold_object(fs: Any, path: str, place: str, wait_s: float = 0.0) -> Iterator[Check]:
    """Hold the lock object `path` of a remote file system and renew it while it is held.

    A lock of a dead process of this host is taken over at once, one of another host when its lease has run out. Two
    processes may take over one stale lock at the same moment; the yielded check, called before publishing, stops one.

    Raises:
        BusyError: if another process holds it for longer than `wait_s` seconds.
    """
    me = this_process()
    deadline = time.monotonic() + wait_s
    while not _claimed(fs, path, me):
        if time.monotonic() >= deadline:
            raise BusyError(place, *_refusal(_holder(fs, path), path))
        time.sleep(POLL_S)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            # A store that is unreachable for a moment, with any error of its client, costs one renewal only: `check`
            # decides before anything is published.
            with suppress(Exception):
                if _is_mine(fs, path, me) and not ended.is_set():
                    renewed = Holder(me.host, me.pid, me.started, me.nonce, me.since, time.time())
                    fs.pipe_file(path, renewed.encode())

    def check() -> None:
        if not _is_mine(fs, path, me):
            raise AuctionError(f"{place}: the lock {path} was taken over by another process; nothing was published")

    renewal = threading.Thread(target=renew, name="lock renewal", daemon=True)
    renewal.start()
    try:
        yield check
    finally:
        ended.set()
        renewal.join()
        # If the store is unreachable now, what was published stays published and the lease runs out by itself.
        with suppress(OSError):
            if _is_mine(fs, path, me):
                fs.rm_file(path)


def _claimed(fs: Any, path: str, me: Holder) -> bool:
    """Try once to create the lock object, if there is none or its holder has ended."""
    data = _read(fs, path)
    if data is not None:
        holder = Holder.decode(data)
        if holder is None or not holder.is_gone(time.time()):
            return False
        log.warning("lock.taken_over", lock=path, pid=holder.pid, host=holder.host)
        with suppress(FileNotFoundError):
            fs.rm_file(path)
    try:
        fs.pipe_file(path, me.encode(), mode="create")
    except FileExistsError:
        return False
    return _is_mine(fs, path, me)


def _read(fs: Any, path: str) -> bytes | None:
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def _holder(fs: Any, path: str) -> Holder | None:
    return Holder.decode(_read(fs, path) or b"")


def _is_mine(fs: Any, path: str, me: Holder) -> bool:
    holder = _holder(fs, path)
    return holder is not None and holder.nonce == me.nonce
