"""One writer at a time: a lock on a file of this machine, or a lease kept as an object in a remote store.

A lock says who holds it, so that a refusal can name the process. What a lock protects, and what its owner left behind
when it was killed, is its callers' business (`trainers.artifacts.publication`, `trainers.artifacts.run_directory`).
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
"""A remote lock that was not renewed for this long belongs to a machine that is gone."""
RENEW_S = 60.0
POLL_S = 0.05

Check = Callable[[], None]
"""Raises AuctionError if the lock was lost to another process; call it before making a result visible."""

_held: set[int] = set()


def _leave_locks_to_the_parent() -> None:
    """A forked worker that outlives a killed trainer must not keep the trainer's locks."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: `started` tells a process from a later one with the same id; times are seconds since 1970."""

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
        """The holder as JSON."""
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def decode(data: bytes) -> Holder | None:
        """None where `data` is not a holder: a lock that is just being written, or a damaged one."""
        try:
            return Holder(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def is_gone(self, now: float) -> bool:
        """Whether this holder can never come back: its process on this host ended, or its lease ran out."""
        mine = this_process()
        if self.host == mine.host:
            return start_of(self.pid) != self.started
        return now - self.renewed > LEASE_S


def this_process() -> Holder:
    """This process as the holder of a new lock."""
    # Containers may share a host's name and still number their processes apart.
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    now = time.time()
    host = f"{socket.gethostname()} {namespace}".strip()
    return Holder(host, os.getpid(), start_of(os.getpid()), uuid.uuid4().hex, now, now)


def start_of(pid: int) -> str:
    """When process `pid` of this host started, in the kernel's ticks; "running" where the kernel does not say, and
    "gone" if there is no such process or it has ended and waits for its parent."""
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


def refused(place: str, holder: Holder | None, lock: str) -> BusyError:
    """The error for a lock that another process holds."""
    shown = str(holder) if holder else "held by another process"
    return BusyError(place, shown, f"wait for that process or stop it; its lock is {lock}")


@contextmanager
def hold_file(path: Path, place: str, wait_s: float = 0.0) -> Iterator[Check]:
    """Holds the lock file `path`. The kernel frees it when the process ends, however it ends.

    `place` names in the error what is locked. Raises InputError if another holds it for longer than `wait_s` seconds.
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
                raise refused(place, Holder.decode(path.read_bytes()), str(path))
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, this_process().encode(), 0)
        yield lambda: None
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(descriptor: int, path: Path) -> bool:
    """Tries once."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(str(path), error.strerror, "use a file system with locks, or an object store's URL") from error
    return True


@contextmanager
def hold_object(fs: Any, path: str, place: str, wait_s: float = 0.0) -> Iterator[Check]:
    """Holds the lock object `path` of a remote file system and renews it while it is held.

    A lock of a dead process of this host is taken over at once, one of another host when its lease ran out. Two takers
    of one stale lock may both pass for a moment; the check before publishing stops one of them.
    Raises InputError if another holds it for longer than `wait_s` seconds.
    """
    me = this_process()
    deadline = time.monotonic() + wait_s
    while not _claimed(fs, path, me):
        if time.monotonic() >= deadline:
            raise refused(place, _holder(fs, path), path)
        time.sleep(POLL_S)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            # A store that is out of reach for a moment, by whatever error of its client, costs one renewal; `check`
            # has the last word.
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
        # What was published stays published if the store cannot be reached now; the lease runs out by itself.
        with suppress(OSError):
            if _is_mine(fs, path, me):
                fs.rm_file(path)


def _claimed(fs: Any, path: str, me: Holder) -> bool:
    """Tries once: creates the lock object if there is none or its holder is gone."""
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
