"""The programs of one cluster: started with a log each, watched while something is waited for, ended without a rest.

Which programs those are, and when one is ready, is for `control_plane`, `node` and `kwok` to say.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mechanism.errors import AuctionError
from tests.support.cluster.guard import MARK, sweep

POLL_S = 0.05
LOG_TAIL = 2_000


class ClusterFailed(AuctionError):
    """A program of the cluster ended or did not become ready; the message holds the end of its log."""


class Processes:
    """The programs of one cluster and its folder, which goes with them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llm-auction-cluster-"))
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.enter: tuple[str, ...] = ()
        """What goes before each command, so that the program runs in the cluster's namespaces."""
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # In a session of its own: Ctrl+C in a terminal ends the owner, and the guard then clears up.
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster.guard", str(self.folder)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self, name: str, command: Sequence[str | Path], *, enter: bool = True) -> subprocess.Popen[bytes]:
        """Starts a program under a name of ours, with its output appended to `logs/<name>.log`."""
        self.kill(name)
        full = [*(self.enter if enter else ()), *(str(part) for part in command)]
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                full,
                cwd=self.folder,
                env=os.environ | {MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._running[name]

    def run(self, command: Sequence[str | Path], *, enter: bool = True, seconds: float = 60.0) -> str:
        """Runs a program to its end and returns what it printed. Raises ClusterFailed where it fails."""
        full = [*(self.enter if enter else ()), *(str(part) for part in command)]
        environment = os.environ | {MARK: str(self.folder)}
        try:
            done = subprocess.run(
                full, env=environment, capture_output=True, text=True, check=False, timeout=seconds, cwd=self.folder
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterFailed(f"`{' '.join(full)}` did not end within {seconds:.0f} s") from error
        if done.returncode:
            raise ClusterFailed(f"`{' '.join(full)}` failed: {(done.stderr or done.stdout)[-LOG_TAIL:]}")
        return done.stdout

    def kill(self, name: str) -> None:
        """Ends one program in the middle of its work; nothing where it does not run."""
        process = self._running.pop(name, None)
        if process is not None:
            # The whole group: a program that was started inside namespaces is the child of the one that entered them.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Returns once `holds()`. Raises ClusterFailed where a program ends meanwhile or the seconds are over."""
        end = time.monotonic() + seconds
        while not holds():
            for name, process in list(self._running.items()):
                if process.poll() is not None:
                    raise ClusterFailed(f"{name} ended while waiting for {what}: {self.log(name)}")
            if time.monotonic() > end:
                logs = " | ".join(f"{name}: {self.log(name)[-600:]}" for name in self._running)
                raise ClusterFailed(f"no {what} within {seconds:.0f} s: {logs}")
            time.sleep(POLL_S)

    def log(self, name: str) -> str:
        """The end of a program's log."""
        return (self.logs / f"{name}.log").read_text("utf-8", errors="replace")[-LOG_TAIL:]

    def close(self) -> None:
        """Ends all programs and removes the folder. May be called again."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        if self._guard.wait() != 0:  # it was killed
            sweep(self.folder)
        for process in self._running.values():
            process.wait()
        self._running.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listened a moment ago."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
