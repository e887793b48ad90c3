"""Child processes: restarted when they fail, stopped in order, and never left behind."""

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
from cli.local.supervisor import ChildProcess, Program, Supervisor


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.05)


@pytest.fixture
def worker(tmp_path: Path) -> Program:
    """A real worker on an empty log."""
    return Program("lake", ["worker", "lake", "--log", str(tmp_path / "log"), "--lake", str(tmp_path / "s")])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def pid_of(child: ChildProcess) -> int:
    assert child._process is not None
    return child._process.pid


def test_a_killed_process_is_restarted_and_a_stopped_one_is_not(
    tmp_path: Path, worker: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAYS_S", (0.1,))
    supervised = Supervisor(tmp_path / "logs")
    child = supervised.start(worker)
    until((tmp_path / "log").is_dir)
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)

    def restarted() -> bool:
        supervised.restart_exited()
        return child.running and pid_of(child) != first

    until(restarted)
    assert child.failures == 1
    second = pid_of(child)
    supervised.stop()
    assert not alive(second)
    assert child.state == "not started"


def test_a_program_that_cannot_start_is_reported_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_DELAYS_S", (30.0,))
    child = ChildProcess(Program("bad", ["worker", "nothing"]), tmp_path)
    child.start()
    until(lambda: not child.running)
    child.restart_if_exited()
    assert child.exit_code == 2
    assert "exited (2)" in child.state
    assert "No such command" in child.log_tail(20)
    child.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_children_end_with_their_killed_parent(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from cli.local.supervisor import Program, Supervisor
child = Supervisor(Path({str(tmp_path)!r})).start(
    Program("w", ["worker", "lake", "--log", {str(tmp_path / "log")!r}, "--lake", {str(tmp_path / "s")!r}]))
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
