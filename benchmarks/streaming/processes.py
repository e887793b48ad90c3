"""The processes of the streaming drill and benchmark: the workers as an operator starts them, and the producer.

Each can be killed and started again; the CPU time of all its lives is added up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import psutil

from mechanism.errors import AuctionError
from streaming.kafka.settings import PREFIX, KafkaSettings


class DrillFailed(AuctionError):
    """A process ended by itself."""


class Place:
    """Where a drill's processes work: one folder, one Kafka, one database."""

    def __init__(self, folder: Path, kafka: KafkaSettings, database: str) -> None:
        self.folder = folder
        self.database = database
        self.shards = str(folder / "shards")
        self.reference = folder / "reference.jsonl"
        told = {"SERVERS": kafka.servers, "SESSION_S": str(kafka.session_s), "DELIVERY_S": str(kafka.delivery_s)}
        paths = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OMP_NUM_THREADS": "1"}
        self.environment = os.environ | {PREFIX + name: value for name, value in told.items()} | paths

    def worker(self, kind: str, *options: str) -> Process:
        """`llm-auction worker KIND`."""
        own = {"feedback": ["--shards", self.shards], "ledger": ["--database", self.database]}.get(kind, [])
        command = ["-m", "cli.main", "--log-level", "error", "worker", kind, "--log", "kafka", *own, *options]
        return Process(kind, command, self)

    def producer(self, interactions: int, rate: float, seed: int) -> Process:
        """The traffic."""
        numbers = ["--interactions", str(interactions), "--rate", str(rate), "--seed", str(seed)]
        places = ["--log", "kafka", "--spool", str(self.folder / "spool"), "--reference", str(self.reference)]
        return Process("producer", ["-m", "benchmarks.streaming.traffic", *places, *numbers], self)


class Process:
    """One of them; as a context it is started, and killed at the end."""

    def __init__(self, name: str, arguments: list[str], place: Place) -> None:
        self.name = name
        self.kills = 0
        self._command = [sys.executable, *arguments]
        self._place = place
        self._earlier_s = self._last_s = 0.0
        self._process: psutil.Popen | None = None

    def __enter__(self) -> Process:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end(signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it has done its work. Raises DrillFailed where it gave up."""
        assert self._process is not None
        self._last_s = self._spent()
        status = self._process.poll()
        if status not in (None, 0):
            raise DrillFailed(f"{self.name} ended with status {status}: {self._log().read_text('utf-8')[-800:]}")
        return bool(status == 0)

    def kill(self) -> None:
        """SIGKILL, and a new start."""
        self._end(signal.SIGKILL)
        self.kills += 1
        self._start()

    def stop(self) -> None:
        """As an operator ends it."""
        self._end(signal.SIGTERM)

    def cpu_s(self) -> float:
        """CPU seconds of all its lives by now."""
        return self._earlier_s + self._spent()

    def memory(self) -> int:
        """Resident bytes now."""
        assert self._process is not None
        return int(self._process.memory_info().rss)

    def _start(self) -> None:
        with self._log().open("ab") as log:
            self._process = psutil.Popen(
                self._command, env=self._place.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
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
        """CPU seconds of this life; of one that is over, what was last seen."""
        try:
            times = self._process.cpu_times() if self._process is not None else None
        except psutil.NoSuchProcess:
            times = None
        return self._last_s if times is None else max(self._last_s, times.user + times.system)

    def _log(self) -> Path:
        return self._place.folder / f"{self.name}.log"
