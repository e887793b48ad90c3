"""A process that writes phases and is killed: the other half of test_run_kills.py.

`killed_writer.py loop URL CACHE` writes epoch after epoch until it is killed. `killed_writer.py each URL CACHE`
kills a child of itself before its first, second, third … step on the file system and prints what is found after each.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import structlog
from fsspec.implementations.local import LocalFileSystem

from mechanism.errors import InputError
from trainers.artifacts.run_directory import RunDirectory

FILES = {"config.json": b"{}", "weights/part-1.bin": b"1" * 50_000, "weights/part-2.bin": b"2" * 50_000}


class Shelf(LocalFileSystem):
    """A folder that is treated as an object store: nothing is renamed, objects are put one by one."""

    protocol = "shelf"
    local_file = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(auto_mkdir=True, **settings)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("shelf://")))


fsspec.register_implementation("shelf", Shelf, clobber=True)


def write(url: str, cache: Path, epoch: int) -> None:
    """One phase, the way the training loop writes it."""
    run = RunDirectory(url, cache)
    with run.lock():
        run.create("epochs: 3\n")
        phase = run.phase("policy", epoch)
        if not phase.finished():
            (phase.scratch() / "step-1").write_text("weights so far")
            with phase.open() as folder:
                for name, content in FILES.items():
                    (folder / name).parent.mkdir(exist_ok=True)
                    (folder / name).write_bytes(content)
        run.write_json(f"epoch-{epoch:03d}/evaluation.json", {"revenue": epoch})


def look(url: str, cache: Path, epoch: int) -> str:
    """What a reader sees: "nothing", "finished" or what is wrong."""
    run = RunDirectory(url, cache)
    phase = run.phase("policy", epoch)
    if not phase.finished():
        try:
            phase.fetch()
        except InputError:
            return "nothing" if run.epochs() == [] else "an epoch without its policy"
        return "fetched what is not finished"
    if problems := phase.verify():
        return "; ".join(problems)
    folder = phase.fetch()
    whole = all((folder / name).read_bytes() == content for name, content in FILES.items())
    return "finished" if whole else "other content"


def kill_before(step: int) -> None:
    """From now on this process dies before its `step`-th call of anything that changes the file system."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "pwrite"):
        setattr(os, name, counted(getattr(os, name)))
    for name in ("pipe_file", "put_file", "rm_file"):
        setattr(Shelf, name, counted(getattr(Shelf, name)))


def in_child(work: Callable[[], None]) -> int:
    """Runs `work` in a forked process; 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_each_step(url: str, cache: Path) -> None:
    """Prints, a JSON line for each step: how the writer ended, what was visible, and the same after another writer."""
    for step in range(1, 200):
        here, copies = f"{url}/{step}", cache / str(step)

        def killed(step: int = step, here: str = here, copies: Path = copies) -> None:
            kill_before(step)
            write(here, copies, 1)

        def again(here: str = here, copies: Path = copies) -> None:
            write(here, copies, 1)

        end = in_child(killed)
        seen = look(here, copies, 1)
        rerun = in_child(again)
        left = sorted(
            path.name
            for root in (Path(here.partition("://")[2]), copies)
            for path in root.rglob("*")
            if ".writing-" in path.name or "checkpoints" in path.name or path.name == "_uploading.json"
        )
        print(json.dumps([end, seen, rerun, look(here, copies, 1), left]), flush=True)
        if end == 0:
            break


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    way, where, copies = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if way == "each":
        kill_at_each_step(where, copies)
    else:
        first = len(RunDirectory(where, copies).epochs()) + 1
        print("ready", flush=True)
        for number in range(first, 10_000):
            write(where, copies, number)
