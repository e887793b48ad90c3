"""The servers of the router's measurement: this router and the LiteLLM proxy, their start, CPU time and end.

LiteLLM is installed from PyPI wheels that are pinned by version and hash (`requirements/litellm.txt`). Everything that
costs it time and that the measurement does not need (database, callbacks, retries, request logs) is off.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from rich.progress import Progress

from benchmarks.serving import load, router_traffic
from benchmarks.serving.mock_upstream import MODEL
from mechanism.errors import AuctionError, InputError
from tests.support.ports import free_ports

LOCK = Path(__file__).parents[2] / "requirements" / "litellm.txt"


class ServerFailed(AuctionError):
    """A server of the measurement did not start or exited unexpectedly."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running server, and the resources that it has used."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process tree since its start, including processes that have ended."""
        own = psutil.Process(self.process.pid)
        total = 0.0
        for process in [own, *own.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_mb(self) -> float:
        """Return the resident memory of the process tree."""
        own = psutil.Process(self.process.pid)
        return float(sum(p.memory_info().rss for p in [own, *own.children(recursive=True)])) / 1e6


@contextmanager
def started(
    command: Sequence[str],
    port: int,
    path: str,
    log: Path,
    cores: Sequence[int],
    environment: Mapping[str, str],
    start_s: float = 120.0,
) -> Iterator[Running]:
    """Start a server on the given cores, wait until `path` answers 200, and stop it and its children at the end.

    Without `cores` it may use all. A server that does not start raises ServerFailed with the end of its log.
    """
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True
        )
    try:
        if cores:
            os.sched_setaffinity(process.pid, cores)  # before it starts threads, which inherit it
        _wait(process, f"http://127.0.0.1:{port}{path}", log, start_s)
        yield Running(process, port)
    finally:
        _stop(process)


def wait_for_workers(side: Side, seconds: float = 120.0) -> None:
    """Wait until every worker of a server listens.

    Raises:
        ServerFailed: if they do not in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sockets = psutil.net_connections("tcp")
        if sum(one.status == psutil.CONN_LISTEN and one.laddr[1:2] == (side.port,) for one in sockets) >= side.workers:
            return
        time.sleep(0.2)
    raise ServerFailed(f"{side.name}: fewer than {side.workers} workers listen at {side.port}")


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = log.read_bytes().decode(errors="replace").splitlines()[-15:]
    raise ServerFailed("\n".join([f"no server at {url}; the end of {log}:", *tail]))


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        if child.is_running():
            child.kill()


@dataclass(frozen=True, slots=True)
class Plan:
    """The settings of a measurement; `cores`: the server's and those of everything else, empty if shared."""

    seconds: float
    campaigns: int
    held: int
    poisson: bool
    encoder: bool
    seed: int
    cores: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Side:
    """One server under test: its start command, the path that answers when it is ready, its API key, its processes."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int
    health: str
    key: str
    workers: int = 1

    def target(self, stream: bool) -> load.Target:
        """Return the server's address and requests for the load generator."""
        body = partial(router_traffic.body, MODEL, stream=stream)
        return load.Target(self.port, body, headers=f"Authorization: Bearer {self.key}\r\n".encode())


def ours(name: str, plan: Plan, folder: Path, mock_port: int, workers: int = 1) -> Side:
    """Return this router, whose campaigns `book` has written under the same name."""
    key, [port, metrics_port] = secrets.token_urlsafe(32), free_ports(2)
    command = [
        *(str(Path(sys.executable).with_name("llm-auction")), "--log-level", "warning", "serve", "--port", str(port)),
        *("--upstream", f"http://127.0.0.1:{mock_port}/v1", "--model", MODEL, "--state-dir", str(folder / name)),
        *("--no-demo", "--key-per-minute", "0", "--address-per-minute", "0", "--connections", "20000"),
        *([] if plan.encoder else ["--no-encoder"]),
        *("--workers", str(workers), "--metrics", f"127.0.0.1:{metrics_port}"),
    ]
    environment = {**os.environ, "LLM_AUCTION_ADMIN_KEY": key, "OMP_NUM_THREADS": "1"}
    return Side(name, command, environment, port, "/readyz", key, workers)


def litellm(folder: Path, environment: Path, mock_port: int) -> Side:
    """Return the LiteLLM proxy, which `install_litellm` has installed."""
    key, [port], config = f"sk-{secrets.token_hex(24)}", free_ports(1), folder / "litellm.yaml"
    _write_litellm_config(config, mock_port)
    listen = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    command = [str(environment / "bin" / "litellm"), "--config", str(config), *listen]
    return Side("litellm", command, _litellm_environment(folder, key), port, "/health/liveliness", key)


def book(name: str, plan: Plan, folder: Path, progress: Progress) -> None:
    """Write the router's database with its campaigns: first in memory, where commits are cheap, then copied to disk."""
    state = folder / name
    state.mkdir()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as quick:
        path = Path(quick) / "router.sqlite3"
        task = progress.add_task("booking campaigns", total=plan.campaigns)
        for done in router_traffic.fill(f"sqlite:///{path}", plan.campaigns, plan.seed):
            progress.update(task, completed=done)
        for file in Path(quick).iterdir():
            shutil.copy(file, state)


def install_litellm(folder: Path) -> Path:
    """Install the lock into a virtual environment, unless that is done already, and return its start script.

    Raises:
        InputError: if the installation failed.
    """
    stamp, script, lock = folder / "installed.txt", folder / "bin" / "litellm", LOCK.read_bytes()
    if stamp.is_file() and stamp.read_bytes() == lock:
        return script
    uv = [sys.executable, "-m", "uv"]
    wanted = ["--only-binary", ":all:", "--require-hashes", "--no-deps", "-r", str(LOCK)]
    python = str(folder / "bin" / "python")
    try:
        subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run([*uv, "pip", "install", "--quiet", "--python", python, *wanted], check=True)
    except subprocess.CalledProcessError as error:
        remedy = "see uv's output above; uv comes with the extra `dev`, and PyPI must be reachable"
        raise InputError("litellm", litellm_version(), remedy) from error
    stamp.write_bytes(lock)
    return script


def litellm_version() -> str:
    """Return the locked version of LiteLLM."""
    (found,) = re.findall(r"^litellm==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def _write_litellm_config(path: Path, upstream_port: int) -> None:
    """Configure one model without retries or callbacks: the least work that the proxy can do for a request."""
    path.write_text(
        f"""model_list:
  - model_name: {MODEL}
    litellm_params:
      model: openai/{MODEL}
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: none
litellm_settings:
  callbacks: []
  num_retries: 0
  request_timeout: 60
  telemetry: false
""",
        encoding="utf-8",
    )


def _litellm_environment(home: Path, key: str) -> dict[str, str]:
    """Return the proxy's environment: its master key, which it requires, and nothing of the user's.

    Everything that would make it contact other servers at its start is switched off.
    """
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
        "OMP_NUM_THREADS": "1",
    }
