"""The programs of one cluster: each started with its own log, watched while the cluster waits, and all stopped.

`control_plane`, `node` and `kwok` know which programs there are and when they are ready.
"""

from __future__ import annotations

import os
import shutil
import signal
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
    """A program of the cluster ended or did not become ready; the message contains the end of its log."""


class Processes:
    """The programs of one cluster, and its folder, which is removed with them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="llm-auction-cluster-"))
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.enter: tuple[str, ...] = ()
        """Prefix of each command, by which the program enters the cluster's namespaces."""
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # in its own session, so that Ctrl+C in a terminal ends the owner but not the guard
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster.guard", str(self.folder)],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self, name: str, command: Sequence[str | Path], *, enter: bool = True) -> subprocess.Popen[bytes]:
        """Start a program, replacing one of the same name, with its output appended to `logs/<name>.log`."""
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
        """Run a program to its end and return its output.

        Raises:
            ClusterFailed: if it fails or takes longer than `seconds`.
        """
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
        """Kill a program, if it runs."""
        process = self._running.pop(name, None)
        if process is not None:
            # the whole group, because a program inside namespaces is a child of the one that entered them
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until `holds()`.

        Raises:
            ClusterFailed: if a program ends meanwhile or `seconds` have passed.
        """
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
        """Return the end of a program's log."""
        return (self.logs / f"{name}.log").read_text("utf-8", errors="replace")[-LOG_TAIL:]

    def close(self) -> None:
        """Stop all programs and remove the folder; may be called again."""
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        if self._guard.wait() != 0:  # the guard itself was killed
            sweep(self.folder)
        for process in self._running.values():
            process.wait()
        self._running.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
