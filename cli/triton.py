"""`llm-auction triton`: prepare a Triton server, build model repositories, serve them."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Serve policies with Triton Inference Server.")

Folder = Annotated[Path, typer.Option(help="Folder of the prepared server.")]
FOLDER = Path("build/triton")
FOLLOW_ONCE_S = 60.0
"""How long `follow --once` tries again what it cannot build."""
FOLLOW_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Time between two readings of the route file; it grows up to the longest while something cannot be built."""


@app.command()
def prepare(folder: Folder = FOLDER) -> None:
    """Install a tritonserver from PyPI (55 MB) into its own environment, unless it is there already."""
    from serving.policies.triton import server

    typer.echo(f"tritonserver is ready in {server.prepare(folder).environment}")


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="A model's name or folder; with --version a registry's folder or URL.")],
    out: Annotated[Path, typer.Option(help="The model repository to add it to.")],
    version: Annotated[str | None, typer.Option(help="A registered version, or latest.")] = None,
    kind: Annotated[
        Literal["python", "vllm"],
        typer.Option(help="Triton backend; vllm needs GPUs and the container image with vLLM."),
    ] = "python",
    device: Annotated[Literal["cpu", "gpu"] | None, typer.Option(help="Default: gpu for vllm, else cpu.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Model instances; each loads the weights.")] = 1,
    slots: Annotated[int, typer.Option(min=1, help="Answers that an instance generates at the same time.")] = 16,
    waiting: Annotated[int, typer.Option(min=0, help="Answers that may wait in the queue.")] = 64,
    shared: Annotated[
        bool, typer.Option("--shared", help="Of an adapter: beside others, on one copy of the base they share.")
    ] = False,
    link: Annotated[bool, typer.Option("--link", help="Hard-link the weights' files instead of copying them.")] = False,
) -> None:
    """Add a model to a Triton model repository and print its name there.

    Raises:
        ConfigError: if `model` is a registry's URL and no version is given.
    """
    from mechanism.errors import ConfigError
    from serving.policies.triton.repository import build_adapter, build_repository

    if "://" in model:
        from trainers.artifacts.registry import Registry

        if version is None:
            raise ConfigError("--version", None, f"give a version of the registry at {model}")
        model, version = str(Registry(model).fetch(version)), None
    chosen = device or ("gpu" if kind == "vllm" else "cpu")
    make = build_adapter if shared else build_repository
    built = make(model, out, version, kind, instances, chosen, slots, waiting, link)
    on = f" on the base sha256 {built.base}" if built.base else ""
    typer.echo(f"{built.name} (weights sha256 {built.digest}{on}) in {built.folder}")


@app.command()
def follow(
    registry: Annotated[str, typer.Argument(help="Folder or URL of the registry with the adapters.")],
    routes: Annotated[Path, typer.Option(help="The route file that names them.")],
    base: Annotated[str, typer.Option(help="sha256 of the base whose adapters are built.")],
    out: Annotated[Path, typer.Option(help="The model repository to add them to.")],
    device: Annotated[Literal["cpu", "gpu"], typer.Option(help="Where the base is served.")] = "cpu",
    once: Annotated[bool, typer.Option("--once", help="End when the repository holds one of them.")] = False,
) -> None:
    """Build the adapters that a route file names on one base, and those that it names later.

    With --once it fails with the last error if none could be built within a minute.
    """
    from serving.policies.route_file import read_routes
    from serving.policies.triton.follow import Follower
    from serving.policies.triton.repository import BuiltModel, build_adapter
    from trainers.artifacts.registry import Registry

    def build(version: str) -> BuiltModel:
        return build_adapter(str(Registry(registry).fetch(version)), out, device=device)

    follower, end, pause = Follower(base, out, build), time.monotonic() + FOLLOW_ONCE_S, FOLLOW_S
    while True:
        found = read_routes(routes)
        error = follower.update(found)
        if once and follower.holds_any(found):
            return
        if once and error is not None and time.monotonic() >= end:
            raise error
        pause = FOLLOW_S if error is None else min(2 * pause, LONGEST_PAUSE_S)
        time.sleep(pause)


@app.command()
def serve(
    repository: Annotated[Path, typer.Argument(help="Model repository, from `llm-auction triton build`.")],
    load: Annotated[list[str] | None, typer.Option(help="Model to load; may be repeated. Default: all.")] = None,
    http: Annotated[int, typer.Option(help="HTTP port.", min=1, max=65535)] = 8000,
    grpc: Annotated[int, typer.Option(help="gRPC port, which the router connects to.", min=1, max=65535)] = 8001,
    metrics: Annotated[int, typer.Option(help="Port of the Prometheus metrics.", min=1, max=65535)] = 8002,
    folder: Folder = FOLDER,
) -> None:
    """Run the prepared tritonserver on a model repository until SIGTERM or Ctrl+C.

    Raises:
        ConfigError: if the repository holds no model.
        PolicyError: if the server ends by itself.
    """
    from mechanism.errors import ConfigError, PolicyError
    from serving.policies.triton import server

    found = sorted(config.parent.name for config in repository.glob("*/config.pbtxt"))
    if not found:
        raise ConfigError(
            "REPOSITORY", str(repository), f"no model is there: llm-auction triton build MODEL --out {repository}"
        )
    prepared = server.locate(folder)
    names, log = load or found, folder / "server.log"
    typer.echo(f"Loading {', '.join(names)} (log: {log}) ...", err=True)
    with server.running(repository, names, log, prepared, (http, grpc, metrics)) as running:
        signal.signal(signal.SIGTERM, _interrupt)
        typer.echo(f"Triton: gRPC localhost:{grpc}, HTTP localhost:{http}, metrics localhost:{metrics}", err=True)
        try:
            while running.process.poll() is None:
                time.sleep(0.5)
        except KeyboardInterrupt:
            return
        raise PolicyError(f"tritonserver exited unexpectedly: see {log}")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
