"""The two servers of the router's measurement, this router and the LiteLLM proxy: how each is prepared and started."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.progress import Progress

from benchmarks.serving import bystanders, litellm_proxy, load, router_campaigns

MODEL = "mock"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and with what; `cores` are (server's, everything else's), empty where they are shared."""

    seconds: float
    campaigns: int
    held: int
    poisson: bool
    encoder: bool
    seed: int
    cores: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Side:
    """One server under test: how it is started, where it says that it is ready, and its API key."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int
    health: str
    key: str

    def target(self, stream: bool) -> load.Target:
        """Its address and requests."""
        body = partial(router_campaigns.body, MODEL, stream=stream)
        return load.Target(self.port, body, headers=f"Authorization: Bearer {self.key}\r\n".encode())


def ours(plan: Plan, folder: Path, mock_port: int) -> Side:
    """This router, with its campaigns booked already."""
    key, port = secrets.token_urlsafe(32), bystanders.free_port()
    command = [
        *(str(Path(sys.executable).with_name("llm-auction")), "--log-level", "warning", "serve", "--port", str(port)),
        *("--upstream", f"http://127.0.0.1:{mock_port}/v1", "--model", MODEL, "--state-dir", str(folder / "ours")),
        "--no-demo",
        *([] if plan.encoder else ["--no-encoder"]),
    ]
    environment = {**os.environ, "LLM_AUCTION_ADMIN_KEY": key, "OMP_NUM_THREADS": "1"}
    return Side("ours", command, environment, port, "/readyz", key)


def litellm(folder: Path, environment: Path, mock_port: int) -> Side:
    """The LiteLLM proxy, installed already."""
    key, port, config = f"sk-{secrets.token_hex(24)}", bystanders.free_port(), folder / "litellm.yaml"
    litellm_proxy.write_config(config, mock_port)
    command = litellm_proxy.command(environment / "bin" / "litellm", config, port)
    seen = litellm_proxy.environment(folder, key)
    return Side("litellm", command, seen, port, "/health/liveliness", key)


def book(plan: Plan, folder: Path, progress: Progress) -> None:
    """The router's database with its campaigns; written in memory, where a commit costs nothing, then put on disk."""
    state = folder / "ours"
    state.mkdir()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as quick:
        path = Path(quick) / "router.sqlite3"
        task = progress.add_task("booking campaigns", total=plan.campaigns)
        for done in router_campaigns.fill(f"sqlite:///{path}", plan.campaigns, plan.seed):
            progress.update(task, completed=done)
        for file in Path(quick).iterdir():
            shutil.copy(file, state)
