"""Charging in a process of its own: the ledger's work is mostly Python, and within the router's process each of its
steps would hold the interpreter's lock while streams wait for it.

The process runs the ledger worker (`serving.ledger.charging`) on the router's log, at a low priority. It is told where
to work
on its standard input, says on its standard output what was charged and what is to be logged, and ends when its input
does: also when the router was killed. One that dies is started again; what it had not booked is read again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from serving.database.engine import Database
from serving.ledger.charging import Told
from serving.ledger.charging_thread import ChargingThread
from serving.ledger.events import Charged, ChargeEvent
from streaming.addresses import open_log
from streaming.workers.loop import PAUSES_S

log = structlog.get_logger(__name__)

NICE = 10
"""Where there is one core for all, answers come first, and the ledger still gets a tenth of it."""
GATHERED_S = 1.0
START_S = 5.0
"""How long a process that was told to end while it starts may take to notice."""
WITHIN_S = 10.0
"""How long it goes on delivering when the router was killed."""


class Place(msgspec.Struct, frozen=True):
    """Which log is charged to which database. The URL may hold a password, so it is no command-line argument."""

    log: str
    database: str


class Charge(msgspec.Struct, frozen=True, tag=True):
    """An event that was new, and what became of it."""

    event: ChargeEvent
    outcome: Charged


class Entry(msgspec.Struct, frozen=True, tag=True):
    """One event for the router's log."""

    level: str
    text: str
    fields: dict[str, str | int | float | bool | None]


_MESSAGES = msgspec.json.Decoder(Charge | Entry)


class ChargingProcess:
    """Charges a log to a database, from another process; `told` is called on a thread of this one."""

    def __init__(self, address: str, database: str, told: Told) -> None:
        self._place = msgspec.json.encode(Place(address, database)) + b"\n"
        self._told = told
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="charging", daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begins with what an earlier process left."""
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """Charges what the log holds by now, for at most that long, and ends; the rest waits for the next start."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._tell(self._process, b"%f" % within_s)
                assert self._process.stdin is not None
                with suppress(BrokenPipeError):
                    self._process.stdin.close()
        self._thread.join(within_s + START_S)
        if self._thread.is_alive() and self._process is not None:
            log.error("charging did not end: killed", pid=self._process.pid)
            self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while (process := self._begun()) is not None:
            with suppress(BrokenPipeError), process:  # closes its pipes and waits for its end
                assert process.stdout is not None
                for line in process.stdout:
                    failures = 0
                    self._heard(line)
            if self._stopping.is_set():
                return
            log.error("charging ended and is started again", status=process.returncode)
            self._stopping.wait(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
            failures += 1

    def _begun(self) -> subprocess.Popen[bytes] | None:
        """A new process, None where it is time to stop."""
        with self._lock:
            if self._stopping.is_set():
                return None
            command = [sys.executable, "-P", "-m", __name__]
            # It finds the same modules, however this process came to find them.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
            self._tell(self._process, self._place)
            return self._process

    def _tell(self, process: subprocess.Popen[bytes], words: bytes) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it is no more: its status will be logged
            process.stdin.write(words)
            process.stdin.flush()

    def _heard(self, line: bytes) -> None:
        try:
            message = _MESSAGES.decode(line)
        except msgspec.DecodeError:
            log.error("charging said what is no message", length=len(line))
            return
        if isinstance(message, Charge):
            self._told(message.event, message.outcome)
        else:
            getattr(log, message.level)(message.text, **message.fields)


def main() -> int:
    """The process itself."""
    os.nice(NICE)
    # Ctrl+C reaches the whole group of processes: the router decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    structlog.configure(processors=[structlog.processors.add_log_level, _to_router])
    place = msgspec.json.decode(sys.stdin.buffer.readline(), type=Place)
    database = Database(place.database, pool_size=2)
    told = lambda event, outcome: _say(Charge(event, outcome))  # noqa: E731
    charging = ChargingThread(open_log(place.log), database, told, GATHERED_S)
    charging.start()
    last_words = sys.stdin.buffer.read()  # comes to an end when the router closes it, or is no more
    charging.stop(float(last_words or WITHIN_S))
    database.close()
    return 0


def _to_router(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The last step of logging: what is logged here belongs in the router's log."""
    text, level = event.pop("event"), event.pop("level")
    _say(Entry(level, text, {name: value for name, value in event.items() if name != "logger"}))
    raise structlog.DropEvent


_SAYING = threading.Lock()


def _say(message: Charge | Entry) -> None:
    with _SAYING:
        try:
            sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            return  # the router is gone; what is on record is on record


if __name__ == "__main__":
    sys.exit(main())
