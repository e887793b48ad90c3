"""A PostgreSQL server of one's own, in a temporary folder, for tests and drills: started, killed, restarted, removed.

The server comes from the distribution's package. It listens on a socket in its folder alone, so that no port is taken
and nobody else reaches it.
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
    """The server's programs are not on this machine; the message says how to install them."""


class PostgresFailed(AuctionError):
    """The server did not start; the message holds the end of its log."""


class PostgresServer:
    """One server. As a context it is started, and stopped and removed at the end. It syncs as in production unless
    `durable` is False, which is quicker, and safe as long as the machine keeps running."""

    def __init__(self, *, durable: bool = True) -> None:
        self._durable = durable
        self._programs = programs()
        # postgres refuses to run as root, so root lends it to somebody without rights.
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
        """The address of one of its databases."""
        name = self._user.pw_name if self._user is not None else pwd.getpwuid(os.geteuid()).pw_name
        return f"postgresql://{name}@/{database}?host={self.folder}"

    def create(self, database: str, template: str = "template1") -> str:
        """A new database, empty or a copy of another that nobody is connected to; gives its address."""
        self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Removes a database, and disconnects who is connected."""
        self._execute(f'DROP DATABASE "{database}" WITH (FORCE)')

    def start(self) -> None:
        """Starts the server and waits until it answers. Raises PostgresFailed where it does not within a minute.

        After a kill the first tries may fail, while processes of the old server still hold its memory.
        """
        end = time.monotonic() + START_S
        while self._run("pg_ctl", "start", "-D", self._data, "-l", self.folder / "log", "-w", "-t", "30") != 0:
            if time.monotonic() >= end:
                raise PostgresFailed(f"the server did not start: {self._log()}")
            time.sleep(0.2)

    def kill(self, *, hard: bool) -> None:
        """Ends the server in the middle of its work: by immediate shutdown, or (`hard`) by SIGKILL of its parent
        process, which leaves the others to notice."""
        if not hard:
            self._run("pg_ctl", "stop", "-D", self._data, "-m", "immediate", "-w")
            return
        process = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(process, signal.SIGKILL)
        while _alive(process):
            time.sleep(0.01)

    def remove(self) -> None:
        """Stops the server, where it runs, and removes its folder."""
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
            # The server inherits these files: it must not hang on to the caller's terminal or pipes.
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
    """The folder of the server's programs: what is on PATH, else the newest of the distribution's versions.

    Raises PostgresMissing, which says how to install them.
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
