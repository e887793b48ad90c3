"""A real `tritonserver` without a container: prepared once from the `nvidia-pytriton` wheel, then started and stopped.

The wheel has the server, its python backend and a stub for every Python. The stub needs numpy < 2, which the project
does not use, so it gets an environment of its own in which the project's other packages (torch, transformers, ...) are
found by path. In production the same model repository runs in NVIDIA's container, without this module.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mechanism.errors import ConfigError, PolicyError

FOLDER = Path("build/triton")
REMEDY = "prepare it once with `llm-auction triton prepare` (55 MB from PyPI)"
REQUIREMENTS = """\
nvidia-pytriton==0.7.0 --hash=sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df
numpy==1.26.4 --hash=sha256:666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5 \\
    --hash=sha256:675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed
"""
"""The server, and the last numpy before 2 for the Pythons in SUPPORTED; both wheels for Linux on x86-64."""
SUPPORTED = ((3, 11), (3, 12))


@dataclass(frozen=True, slots=True)
class Prepared:
    """The prepared server: its environment's folder, and the folder of libpython."""

    environment: Path
    libpython: Path

    @property
    def server(self) -> Path:
        """The wheel's folder with `bin/` and `backends/`."""
        return _site(self.environment) / "pytriton" / "tritonserver"


def prepare(folder: Path = FOLDER) -> Prepared:
    """Create the server's environment in `folder`, unless it is there.

    Raises:
        ConfigError: if Python's version is not supported; `_install` and `_libpython` name what else is missing.
    """
    if sys.version_info[:2] not in SUPPORTED:
        raise ConfigError("Python", sys.version.split()[0], "the server needs 3.11 or 3.12: use one of them")
    libpython = _libpython()
    environment = folder.absolute() / "environment"
    stamp = environment / "prepared"
    wanted = f"{REQUIREMENTS}{sys.prefix}\n"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(environment, ignore_errors=True)
        venv.EnvBuilder(symlinks=True).create(environment)
        _install(environment)
        # after the environment's own packages on the path: numpy comes from there, the rest from the project, whose own
        # folder may name further ones
        project = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
        (_site(environment) / "project.pth").write_text(project, encoding="utf-8")
        server = Prepared(environment, libpython).server
        stub = server / "backends" / "python" / "triton_python_backend_stub"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        shutil.copyfile(server / "python_backend_stubs" / version / stub.name, stub)
        for program in (stub, server / "bin" / "tritonserver"):
            program.chmod(0o755)
        stamp.write_text(wanted, encoding="utf-8")
    return Prepared(environment, libpython)


def locate(folder: Path = FOLDER) -> Prepared:
    """Return the server that `prepare` created.

    Raises:
        ConfigError: if it is not prepared.
    """
    environment = folder.absolute() / "environment"
    if not (environment / "prepared").is_file():
        raise ConfigError("tritonserver", str(folder), REMEDY)
    return Prepared(environment, _libpython())


class TritonServer:
    """A running server with the given HTTP, gRPC and metrics ports on 127.0.0.1; its log goes to a file."""

    def __init__(
        self, prepared: Prepared, repository: Path, load: Sequence[str], log: Path, ports: tuple[int, int, int]
    ) -> None:
        self.http, self.grpc, self.metrics = ports
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            # the stub takes the first python3 on PATH as its own and finds packages beside it
            "PATH": f"{prepared.environment / 'bin'}:{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": f"{prepared.libpython}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"),
        }
        command = [
            str(prepared.server / "bin" / "tritonserver"),
            f"--model-repository={repository.absolute()}",
            f"--backend-directory={prepared.server / 'backends'}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",
            *(f"--load-model={name}" for name in load),
            *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            f"--http-port={self.http}",
            f"--grpc-port={self.grpc}",
            f"--metrics-port={self.metrics}",
            "--exit-timeout-secs=10",
        ]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def wait_ready(self, seconds: float = 300.0) -> None:
        """Wait until the server answers and its models are loaded.

        Raises:
            PolicyError: if it ends before or takes longer; the text has the log's last lines.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        self.stop()
        raise PolicyError(f"tritonserver did not become ready; its log {self.log} ends with:\n{tail}")

    def resident_bytes(self) -> int:
        """Return the resident memory of the server and its models' processes; shared pages count once in each."""
        pages = 0
        for pid in self._family():
            with suppress(OSError):  # the process may have ended since it was listed
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def processes(self) -> int:
        """Return the number of the server's processes: itself and one for every instance of a model."""
        return len(self._family())

    def kill(self) -> None:
        """Kill server and models at once, as a crash would."""
        for pid in self._family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds: float = 20.0) -> None:
        """Let running answers end, then stop; kill what is left after `seconds`."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def _family(self) -> list[int]:
        """Return the process ids of the server and its children."""
        pid = self.process.pid
        family = [pid]
        for thread in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                family += [int(child) for child in thread.read_text().split()]
        return family


@contextmanager
def running(
    repository: Path,
    load: Sequence[str],
    log: Path,
    prepared: Prepared,
    ports: tuple[int, int, int],
) -> Iterator[TritonServer]:
    """Start a server on the given HTTP, gRPC and metrics ports, wait until it is ready, and stop it at the end."""
    server = TritonServer(prepared, repository, load, log, ports)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def _install(environment: Path) -> None:
    requirements = environment / "requirements.txt"
    requirements.write_text(REQUIREMENTS, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin" / "python")]
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, "install", *options, "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise ConfigError(
            "tritonserver", why, "see that PyPI is reachable; it needs Linux on x86-64 with glibc >= 2.35"
        )


def _site(environment: Path) -> Path:
    return environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def _libpython() -> Path:
    """Return the folder of this Python's shared library, which the stub links to.

    Raises:
        ConfigError: if there is none.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return Path(folder)
    package = name.split(".so", maxsplit=1)[0]
    raise ConfigError(
        name, "not found", f"install it (on Debian the package {package}): Triton's python backend needs it"
    )
