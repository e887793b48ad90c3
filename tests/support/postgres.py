"""A private PostgreSQL server in a temporary folder, for tests and drills, which can be killed and restarted.

The server comes from the distribution's package. It listens only on a socket in its folder, so that it needs no port
and no other user can connect.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from sqlalchemy import create_engine, text

from mechanism.errors import AuctionError

REMEDY = "PostgreSQL is not installed: `apt-get install postgresql` (Debian, Ubuntu) or `brew install postgresql`"
DEBIAN = Path("/usr/lib/postgresql")
TOOLS = ("initdb", "pg_ctl", "postgres")
START_S = 60


class PostgresMissing(AuctionError):
    """PostgreSQL is missing on this machine; the message says how to install it."""


class PostgresFailed(AuctionError):
    """The server did not start; the message contains the end of its log."""


class PostgresServer:
    """One server, started by entering its context, removed by leaving it.

    durable  sync to disk as in production; False is faster and survives kills, but not a failure of the machine
    """

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable
        self._programs = programs()
        # postgres refuses to run as root, so root starts it as an unprivileged user
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="llm-auction-pg-"))
        self._data = self.folder / "data"
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._initialise()

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        name = self._user.pw_name if self._user is not None else pwd.getpwuid(os.geteuid()).pw_name
        return f"postgresql://{name}@/{database}?host={self.folder}"

    def create(self, database: str, template: str = "template1", options: str = "") -> str:
        """Create a database as a copy of `template`, which must have no connections, and return its URL."""
        self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}" {options}')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop a database and close its connections."""
        self._execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def start(self) -> None:
        """Start the server and wait until it answers.

        After a kill the first attempts may fail, while processes of the old server still hold its shared memory.

        Raises:
            PostgresFailed: if it does not answer within START_S.
        """
        end = time.monotonic() + START_S
        while self._run("pg_ctl", "start", "-D", self._data, "-l", self.folder / "log", "-w", "-t", "30") != 0:
            if time.monotonic() >= end:
                raise PostgresFailed(f"the server did not start: {self._log()}")
            time.sleep(0.2)

    def kill(self, *, hard: bool) -> None:
        """Kill the server by an immediate shutdown, or (`hard`) by SIGKILL of its parent process only."""
        if not hard:
            self._run("pg_ctl", "stop", "-D", self._data, "-m", "immediate", "-w")
            return
        process = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(process, signal.SIGKILL)
        while _alive(process):
            time.sleep(0.01)

    def remove(self) -> None:
        """Stop the server, if it runs, and remove its folder."""
        self._run("pg_ctl", "stop", "-D", self._data, "-m", "immediate", "-w")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        options = ("--locale=C.UTF-8", "--encoding=UTF8", "--auth=trust", "--no-sync")
        if self._run("initdb", "-D", self._data, *options) != 0:
            found = self._log()
            self.remove()
            raise PostgresFailed(f"initdb failed: {found}")
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nmax_connections = 100\n")
            file.write("" if self._durable else "fsync = off\n")

    def _run(self, program: str, *arguments: str | Path) -> int:
        user = None if self._user is None else self._user.pw_uid
        group = None if self._user is None else self._user.pw_gid
        groups = None if self._user is None else ()
        command = [str(self._programs / program), *map(str, arguments)]
        with (self.folder / "tools.log").open("ab") as log:
            # the server inherits these files and must not keep the caller's terminal or pipes open
            return subprocess.run(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
                user=user,
                group=group,
                extra_groups=groups,
            ).returncode

    def _execute(self, statement: str) -> None:
        driver = self.url().replace("postgresql:", "postgresql+psycopg:", 1)
        engine = create_engine(driver, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(text(statement))
        finally:
            engine.dispose()

    def _log(self) -> str:
        files = [self.folder / name for name in ("tools.log", "log")]
        return " ".join(file.read_text("utf-8", errors="replace")[-600:] for file in files if file.exists())


def programs() -> Path:
    """Return the folder of the server's programs: those on PATH, else the distribution's newest version.

    Raises:
        PostgresMissing: if PostgreSQL is not installed.
    """
    on_path = shutil.which("pg_ctl")
    versions = sorted(DEBIAN.glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
    folders = [Path(on_path).resolve().parent] if on_path else []
    for folder in [*folders, *versions]:
        if all((folder / tool).exists() for tool in TOOLS):
            return folder
    raise PostgresMissing(REMEDY)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissing("postgres does not run as root, and there is no user postgres or nobody to run it as")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
