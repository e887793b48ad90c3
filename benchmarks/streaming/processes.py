"""The processes of the streaming drill and benchmark: the workers, by their commands, and the producer.

Each can be killed and restarted; its CPU time is summed over the restarts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import psutil

from mechanism.errors import AuctionError
from streaming.addresses import KAFKA
from streaming.kafka.settings import PREFIX, KafkaSettings


class DrillFailed(AuctionError):
    """A process exited unexpectedly."""


class Workspace:
    """The folder, the log, the lake and the database of a drill's processes.

    Without `kafka` the log is embedded in the folder; without `lake` the lake is in the folder as well.
    """

    def __init__(self, folder: Path, kafka: KafkaSettings | None = None, database: str = "", lake: str = "") -> None:
        self.folder = folder
        self.database = database
        self.lake = lake or str(folder / "lake")
        self.log = str(folder / "log") if kafka is None else KAFKA
        self.reference = folder / "reference.jsonl"
        kafka_settings = {} if kafka is None else {"SERVERS": kafka.servers, "DELIVERY_S": str(kafka.delivery_s)}
        paths = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OMP_NUM_THREADS": "1"}
        self.environment = os.environ | {PREFIX + name: value for name, value in kafka_settings.items()} | paths

    def worker(self, kind: str, *options: str) -> Process:
        """Return the process of `llm-auction worker KIND`."""
        own = {"lake": ["--lake", self.lake], "ledger": ["--database", self.database]}.get(kind, [])
        command = ["-m", "cli.main", "--log-level", "error", "worker", kind, "--log", self.log, *own, *options]
        return Process(kind, command, self)

    def producer(self, interactions: int, rate: float, seed: int) -> Process:
        """Return the process that produces the traffic."""
        numbers = ["--interactions", str(interactions), "--rate", str(rate), "--seed", str(seed)]
        places = ["--log", self.log, "--spool", str(self.folder / "spool"), "--reference", str(self.reference)]
        return Process("producer", ["-m", "benchmarks.streaming.traffic", *places, *numbers], self)


class Process:
    """One process, started by entering its context and killed by leaving it."""

    def __init__(self, name: str, arguments: list[str], workspace: Workspace) -> None:
        self.name = name
        self.kills = 0
        self._command = [sys.executable, *arguments]
        self._workspace = workspace
        self._earlier_s = self._last_s = 0.0
        self._process: psutil.Popen | None = None

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def ended(self) -> bool:
        """Return whether the process has ended successfully.

        Raises:
            DrillFailed: if it exited with an error.
        """
        assert self._process is not None
        self._last_s = self._spent()
        status = self._process.poll()
        if status not in (None, 0):
            raise DrillFailed(f"{self.name} exited with status {status}: {self._log().read_text('utf-8')[-800:]}")
        return bool(status == 0)

    def kill(self, away_s: float = 0.0) -> None:
        """Kill the process and restart it `away_s` seconds later."""
        self.end()
        self.kills += 1
        time.sleep(away_s)
        self.start()

    def end(self) -> None:
        """Kill the process; `start` restarts it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM and wait."""
        self._end(signal.SIGTERM)

    def cpu_s(self) -> float:
        """Return the CPU seconds so far, over all restarts."""
        return self._earlier_s + self._spent()

    def memory(self) -> int:
        """Return the current resident memory in bytes."""
        assert self._process is not None
        return int(self._process.memory_info().rss)

    def start(self) -> None:
        """Start the process."""
        with self._log().open("ab") as log:
            self._process = psutil.Popen(
                self._command, env=self._workspace.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._earlier_s += self._spent()
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait()
        self._process, self._last_s = None, 0.0

    def _spent(self) -> float:
        """Return the CPU seconds of the current process, or their last known value if it has ended."""
        try:
            times = self._process.cpu_times() if self._process is not None else None
        except psutil.NoSuchProcess:
            times = None
        return self._last_s if times is None else max(self._last_s, times.user + times.system)

    def _log(self) -> Path:
        return self._workspace.folder / f"{self.name}.log"
