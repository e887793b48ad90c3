"""Server processes of a measurement: started with a log of their own, waited for, their CPU seconds, and their end."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from mechanism.errors import AuctionError


class ServerFailed(AuctionError):
    """A server of the measurement did not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server and what it has used."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """CPU time of the whole process tree since its start, processes that have ended included."""
        own = psutil.Process(self.process.pid)
        total = 0.0
        for process in [own, *own.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mb(self) -> float:
        """Resident memory of the process tree."""
        own = psutil.Process(self.process.pid)
        return float(sum(p.memory_info().rss for p in [own, *own.children(recursive=True)])) / 1e6


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    path: str,
    log: Path,
    cores: Sequence[int],
    environment: Mapping[str, str],
    start_s: float = 120.0,
) -> Iterator[Running]:
    """Starts a server on the given cores, waits until `path` answers 200, and ends it and its children at the end.

    Raises ServerFailed with the end of its log.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
    try:
        if cores:
            os.sched_setaffinity(process.pid, cores)  # before it has threads of its own
        _wait(process, f"http://127.0.0.1:{port}{path}", log, start_s)
        yield Running(process, port)
    finally:
        _end(process)


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    told = log.read_bytes().decode(errors="replace").splitlines()[-15:]
    raise ServerFailed("\n".join([f"no server at {url}; the end of {log}:", *told]))


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [process_ for process_ in psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()
