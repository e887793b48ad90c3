"""Run the ledger worker beside a router: on a thread of the router, or in a process of its own.

Booking is mostly Python work. On a thread of the router it holds the interpreter lock while answers stream, so a router
under load uses `LedgerProcess`: a child process at low priority that runs a `LedgerThread`.

The child reads its configuration, one JSON line, from standard input, and writes messages, one JSON line each, to
standard output: events that it charged, and log events for the router's log. It ends when its input ends, so also when
the router was killed. A child that dies is restarted, and reads again what it had not booked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from serving.database.engine import Database
from serving.ledger.entries import ChargeEvent, ChargeResult
from serving.ledger.worker import LedgerSettings, LedgerTask, OnCharge
from streaming.addresses import open_log
from streaming.log import EventLog
from streaming.topics import all_topics
from streaming.workers.loop import PAUSES_S, Worker
from streaming.workers.task import WorkerStopped

log = structlog.get_logger(__name__)

POLL_S = 0.5
LAST_TRANSACTION_S = 5.0
"""How long the transaction in progress may take when the thread stops."""
NICE = 10
"""Where all processes share one core, answers come first, and the ledger still gets a tenth of it."""
PROCESS_GATHERED_S = 1.0
START_S = 5.0
"""How long a child that is stopped while it starts may take to notice."""
ORPHANED_S = 10.0
"""How long the child continues to book after the router was killed."""


class LedgerThread:
    """Books the events of a log on a thread, which also calls `on_charge`."""

    def __init__(self, event_log: EventLog, database: Database, on_charge: OnCharge, gathered_s: float) -> None:
        self._log = event_log
        task = LedgerTask(event_log, database, LedgerSettings(gathered_s=gathered_s), on_charge=on_charge)
        self._worker = Worker(task, event_log, poll_s=min(POLL_S, gathered_s))
        self._stopping = threading.Event()
        self._timed_out = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Start booking, first what an earlier process left."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Book what the log holds now, for `within_s` seconds at most; the next start books the rest."""
        self._stopping.set()
        self._thread.join(within_s)
        self._timed_out.set()
        self._thread.join(LAST_TRANSACTION_S)

    def _run(self) -> None:
        failures = 0
        while not self._timed_out.is_set():
            try:
                self._log.create(all_topics())
                self._worker.run(self._stopping)
                self._worker.run(self._timed_out, until_idle=True)
                return
            except WorkerStopped as error:
                log.error("ledger.worker_stopped", reason=str(error)[:300])
            except Exception as error:
                # The log keeps the events, so a restart loses nothing but time.
                log.error("ledger.worker_failed", reason=type(error).__name__)
            self._timed_out.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1


class ProcessConfig(msgspec.Struct, frozen=True):
    """The addresses of the log and the database. The database's may hold a password, so it is no argument."""

    log: str
    database: str


class ChargeMessage(msgspec.Struct, frozen=True, tag=True):
    """A newly booked event and its charge."""

    event: ChargeEvent
    result: ChargeResult


class LogMessage(msgspec.Struct, frozen=True, tag=True):
    """An event for the router's log."""

    level: str
    event: str
    fields: dict[str, str | int | float | bool | None]


_MESSAGES = msgspec.json.Decoder(ChargeMessage | LogMessage)


class LedgerProcess:
    """Books the events of a log in a child process; a thread of this process calls `on_charge`."""

    def __init__(self, log_address: str, database_url: str, on_charge: OnCharge) -> None:
        self._config = msgspec.json.encode(ProcessConfig(log_address, database_url)) + b"\n"
        self._on_charge = on_charge
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="ledger process", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process id of the running child; None before the first start."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start booking, first what an earlier process left."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Book what the log holds now, for `within_s` seconds at most; the next start books the rest."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._send(self._process, b"%f" % within_s)
                assert self._process.stdin is not None
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
        self._thread.join(within_s + START_S)
        if self._thread.is_alive() and self._process is not None:
            log.error("ledger.process_killed", pid=self._process.pid)
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while (process := self._spawn()) is not None:
            with suppress(BrokenPipeError), process:  # closes its pipes and waits for its exit
                assert process.stdout is not None
                for line in process.stdout:
                    failures = 0
                    self._receive(line)
            if self._stopping.is_set():
                return
            log.error("ledger.process_exited", status=process.returncode)
            self._stopping.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """Start a child; None if this process is stopping."""
        with self._lock:
            if self._stopping.is_set():
                return None
            command = [sys.executable, "-P", "-m", __name__]
            # The child finds the same modules as this process, however this one was started.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
            self._send(self._process, self._config)
            return self._process

    def _send(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the child has exited: `_run` logs its status
            process.stdin.write(data)
            process.stdin.flush()

    def _receive(self, line: bytes) -> None:
        try:
            message = _MESSAGES.decode(line)
        except msgspec.DecodeError:
            log.error("ledger.undecodable_message", length=len(line))
            return
        if isinstance(message, ChargeMessage):
            self._on_charge(message.event, message.result)
        else:
            getattr(log, message.level)(message.event, **message.fields)


def main() -> int:
    """Run the child process."""
    os.nice(NICE)
    # Ctrl+C reaches the whole process group; the router decides when its child stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    structlog.configure(processors=[structlog.processors.add_log_level, _log_to_router])
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=ProcessConfig)
    database = Database(config.database, pool_size=2)
    thread = LedgerThread(open_log(config.log), database, _report_charge, PROCESS_GATHERED_S)
    thread.start()
    within_s = sys.stdin.buffer.read()  # returns when the router closes the pipe or exits
    thread.stop(float(within_s or ORPHANED_S))
    database.close()
    return 0


def _report_charge(event: ChargeEvent, result: ChargeResult) -> None:
    _write(ChargeMessage(event, result))


def _log_to_router(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Send a log event to the router, as the last processor of the chain.

    Raises:
        DropEvent: always, since nothing is left to log here.
    """
    name, level = event.pop("event"), event.pop("level")
    _write(LogMessage(level, name, {key: value for key, value in event.items() if key != "logger"}))
    raise structlog.DropEvent


_writing = threading.Lock()


def _write(message: ChargeMessage | LogMessage) -> None:
    with _writing:
        try:
            sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            return  # the router has exited; what was charged is on record


if __name__ == "__main__":
    sys.exit(main())
