"""Child processes: begun again when they fail, ended in order, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.local import supervisor
from cli.local.supervisor import Child, Children, Program


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def worker(tmp_path: Path) -> Program:
    """A real worker on an empty log."""
    return Program("feedback", ["worker", "feedback", "--log", str(tmp_path / "log"), "--shards", str(tmp_path / "s")])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def pid_of(child: Child) -> int:
    assert child._process is not None
    return child._process.pid


def test_what_is_killed_is_begun_again_and_what_is_stopped_is_not(
    tmp_path: Path, worker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (0.1,))
    all_of_them = Children(tmp_path / "logs")
    child = all_of_them.start(worker)
    until((tmp_path / "log").is_dir)
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)

    def begun_again() -> bool:
        all_of_them.watch()
        return child.running and pid_of(child) != first

    until(begun_again)
    assert child.failures == 1
    second = pid_of(child)
    all_of_them.stop()
    assert not alive(second)
    assert child.state == "not started"


def test_a_program_that_cannot_start_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PAUSES_S", (30.0,))
    child = Child(Program("bad", ["worker", "nothing"]), tmp_path)
    child.start()
    until(lambda: not child.running)
    child.watch()
    assert child.exit_code == 2
    assert "ended (2)" in child.state
    assert "No such command" in child.tail(20)
    child.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_of_a_killed_parent_end(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from cli.local.supervisor import Children, Program
child = Children(Path({str(tmp_path)!r})).start(
    Program("w", ["worker", "feedback", "--log", {str(tmp_path / "log")!r}, "--shards", {str(tmp_path / "s")!r}]))
print(child._process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until((tmp_path / "log").is_dir)
    parent.kill()
    parent.communicate()
    until(lambda: not alive(child))
