"""`python -m tests.support.cluster`: build the programs of a Kubernetes cluster, or start one on this machine."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack, suppress
from typing import Annotated

import typer

from mechanism.errors import AuctionError, InputError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="A Kubernetes cluster on this machine, for tests and drills."
)


@app.command()
def prepare(
    only: Annotated[list[str] | None, typer.Argument(help="Programs to build. Default: all.")] = None,
) -> None:
    """Build the programs from pinned Go modules, unless they are there already.

    Takes about 11 CPU minutes, and on disk 2 GB for Go's downloads, 4 GB for compiled packages (removed at the end) and
    0.7 GB for the programs, which are kept in the user's cache or in the folder that LLM_AUCTION_CLUSTER_TOOLS names.
    """
    from tests.support.cluster import sandbox, tools

    unknown = [name for name in only or () if name not in tools.TOOLS]
    if unknown:
        raise InputError("program", unknown[0], f"give one of {', '.join(tools.TOOLS)}")
    place = tools.prepare(only or (), typer.echo)
    typer.echo(f"Kubernetes {tools.version('k8s.io/kubernetes')} is ready in {place}")
    try:
        sandbox.check()
    except tools.ToolsMissing as missing:
        typer.echo(f"this machine can run `python -m tests.support.cluster up`, but not `--node`: {missing}")


@app.command()
def up(
    node: Annotated[bool, typer.Option("--node", help="Add a node that runs real pods (Linux, as root).")] = False,
    kwok: Annotated[
        int, typer.Option(min=0, help="Add this many nodes that simulate their pods; with --node they are tainted.")
    ] = 0,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs that each of those nodes reports.")] = 8,
    image: Annotated[
        list[str] | None, typer.Option(help="Full image name that stands for this machine; may be repeated.")
    ] = None,
) -> None:
    """Start a cluster and keep it until Ctrl+C, which removes everything."""
    from tests.support.cluster import kwok as kwok_nodes
    from tests.support.cluster import node as real
    from tests.support.cluster import tools
    from tests.support.cluster.control_plane import ControlPlane

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        if node:
            cluster = stack.enter_context(real.Node())
            if image:
                cluster.name_image(*image)
            plane = cluster.plane
            typer.echo(f"{real.NAME} runs pods; the image {real.HOST_IMAGE} is this machine, read-only")
        else:
            plane = stack.enter_context(ControlPlane(controllers=True))
        if kwok:
            kwok_nodes.start(plane)
            resources = {"nvidia.com/gpu": str(gpus)} if gpus else None
            kwok_nodes.add_nodes(plane, kwok, resources=resources, tainted=node)
        version = tools.version("k8s.io/kubernetes")
        typer.echo(f"Kubernetes {version} is ready at {plane.url}; its logs are in {plane.processes.logs}")
        typer.echo(f"export KUBECONFIG={plane.kubeconfig} PATH={tools.folder()}:$PATH")
        threading.Event().wait()


if __name__ == "__main__":
    try:
        app(prog_name="python -m tests.support.cluster")
    except AuctionError as error:
        sys.exit(f"error: {error}")
