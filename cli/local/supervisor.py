"""Child processes of one command: started, restarted after failures, and stopped in order.

Each child writes to its own log file and leads its own process group, so that Ctrl+C reaches only the parent, which
then stops the children one after the other. On Linux they also end when the parent is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

RESTART_DELAYS_S = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Delay before the first, second, ... restart in a row; the last one repeats."""
STEADY_S = 60.0
"""A child that ran for this long counts as recovered: its next failure is the first one again."""
MAX_LOG_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Program:
    """A command of this project to run as a child.

    name            of the process and its log file
    arguments       after `llm-auction`
    environment     added to the parent's
    nice            niceness of the process
    stop_timeout_s  seconds that it may take to end after SIGTERM
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0
    stop_timeout_s: float = 20.0


class ChildProcess:
    """A program and its current process."""

    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self.log_path = logs / f"{program.name}.log"
        self.failures = 0
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._restart_at = 0.0

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def state(self) -> str:
        """The state in a few words, for the terminal."""
        if self.running:
            return f"restarted {self.failures} times" if self.failures else "running"
        return "not started" if self._process is None else f"exited ({self.exit_code}), see {self.log_path}"

    def start(self) -> None:
        """Start the process; a log file that has grown too large is rotated first."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.is_file() and self.log_path.stat().st_size > MAX_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        program = self.program
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli.local.child", str(os.getpid()), str(program.nice), *program.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **program.environment},
            )
        self._started_at = time.monotonic()

    def restart_if_exited(self) -> None:
        """Restart the process if it has exited, after a delay that grows with the failures in a row."""
        if self._process is None or self.running:
            return
        now = time.monotonic()
        if self.exit_code is None:
            self.exit_code = self._process.returncode
            self.failures = 1 if now - self._started_at > STEADY_S else self.failures + 1
            delay_s = RESTART_DELAYS_S[min(self.failures, len(RESTART_DELAYS_S)) - 1]
            self._restart_at = now + delay_s
            log.warning("child.exited", name=self.program.name, status=self.exit_code, restart_in_s=delay_s)
        elif now >= self._restart_at:
            self.exit_code = None
            self.start()

    def stop(self) -> None:
        """Send SIGTERM, wait, then kill what is left of the process group."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(self.program.stop_timeout_s)
            except subprocess.TimeoutExpired:
                log.warning("child.killed", name=self.program.name, after_s=self.program.stop_timeout_s)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the log."""
        if not self.log_path.is_file():
            return ""
        with self.log_path.open("rb") as file:
            file.seek(max(0, self.log_path.stat().st_size - 4_000))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Several children, by name; they are stopped in the order in which they were started."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.children: dict[str, ChildProcess] = {}

    def start(self, program: Program) -> ChildProcess:
        """Start a program as a child of its name."""
        child = self.children[program.name] = ChildProcess(program, self._logs)
        child.start()
        return child

    def restart_exited(self) -> None:
        """Restart the children that have exited and whose delay is over; call it every second or so."""
        for child in self.children.values():
            child.restart_if_exited()

    def stop(self) -> None:
        """Stop all children."""
        for child in self.children.values():
            child.stop()
        self.children.clear()
