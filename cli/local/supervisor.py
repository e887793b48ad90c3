"""Child processes of one command: started, watched, begun again when they fail, and stopped in order.

Each writes to a log file of its own and leads a process group, so that Ctrl+C reaches the parent alone, which then ends
them one after the other. A parent that is killed takes them with it (Linux).
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

PAUSES_S = (1.0, 2.0, 5.0, 15.0, 30.0)
STEADY_S = 60.0
"""A child that has run for so long may fail again as if for the first time."""
LOG_BYTES = 20_000_000


@dataclass(frozen=True, slots=True)
class Program:
    """A command of this project to run: its name, its words after `llm-auction`, what is added to the environment, how
    much it yields to others (`nice`), and how long it may take to end."""

    name: str
    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    nice: int = 0
    ends_within_s: float = 20.0


class Child:
    """One program and its present process."""

    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self.log_path = logs / f"{program.name}.log"
        self.failures = 0
        self.exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._again_at = 0.0

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def state(self) -> str:
        """In a few words."""
        if self.running:
            return f"begun again {self.failures} times" if self.failures else "running"
        return "not started" if self._process is None else f"ended ({self.exit_code}), see {self.log_path}"

    def start(self) -> None:
        """Starts it."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.is_file() and self.log_path.stat().st_size > LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        program = self.program
        with self.log_path.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli.local.child", str(os.getpid()), str(program.nice), *program.words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **program.environment},
            )
        self._began = time.monotonic()

    def watch(self) -> None:
        """Begins it again, after a pause, where it has ended by itself."""
        if self._process is None or self.running:
            return
        now = time.monotonic()
        if self.exit_code is None:
            self.exit_code = self._process.returncode
            self.failures = 1 if now - self._began > STEADY_S else self.failures + 1
            pause = PAUSES_S[min(self.failures, len(PAUSES_S)) - 1]
            self._again_at = now + pause
            log.warning("process ended", name=self.program.name, status=self.exit_code, again_in_s=pause)
        elif now >= self._again_at:
            self.exit_code = None
            self.start()

    def stop(self) -> None:
        """Asks it to end, waits, and ends what is left of its group."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(self.program.ends_within_s)
            except subprocess.TimeoutExpired:
                log.warning("process killed", name=self.program.name, after_s=self.program.ends_within_s)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def tail(self, lines: int = 5) -> str:
        """The end of its log."""
        if not self.log_path.is_file():
            return ""
        with self.log_path.open("rb") as file:
            file.seek(max(0, self.log_path.stat().st_size - 4_000))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Children:
    """Several of them; they are stopped in the order in which they were added."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.all: dict[str, Child] = {}

    def start(self, program: Program) -> Child:
        """Starts a program under its name."""
        child = self.all[program.name] = Child(program, self._logs)
        child.start()
        return child

    def watch(self) -> None:
        """Looks after all of them; call it now and then."""
        for child in self.all.values():
            child.watch()

    def stop(self) -> None:
        """Ends all."""
        for child in self.all.values():
            child.stop()
        self.all.clear()
