"""`llm-auction promote`: gives a registered model the traffic of the routers that follow a route file."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mechanism.errors import InputError

if TYPE_CHECKING:
    from serving.canary.deployment import Change
    from serving.policies.route_file import Version
    from trainers.artifacts.registry import ModelEntry, Registry

ROUTES = Path("build/serve/routes.json")
RoutesFile = Annotated[Path, typer.Option("--routes", help="Route file of the routers.", envvar="LLM_AUCTION_ROUTES")]
RegistryUrl = Annotated[
    str, typer.Option("--registry", help="Folder or URL that holds `models/`.", envvar="LLM_AUCTION_REGISTRY")
]
By = Annotated[str, typer.Option(help="Who decides, for the history; the system's user if left out.")]


def promote(
    version: Annotated[str, typer.Argument(help="A registered version, or latest.")],
    registry: RegistryUrl = "build/runs",
    routes: RoutesFile = ROUTES,
    share: Annotated[int, typer.Option(help="Per cent of the traffic; the rest stays as it is.", min=1, max=100)] = 100,
    why: Annotated[str, typer.Option(help="The reason, for the history.")] = "",
    by: By = "",
    force: Annotated[bool, typer.Option("--force", help="Also a model that its gates refused, or never saw.")] = False,
) -> None:
    """Route traffic to a version; answers that are under way end on the old one."""
    from serving.canary.deployment import Deployment
    from trainers.artifacts.registry import Registry

    models = Registry(registry)
    entry = models.get(version)
    if not force:
        check_gates(entry)
    change = Deployment(routes).promote(routed(models, entry), by or user(), why, share)
    typer.echo(told(change))


def check_gates(entry: ModelEntry) -> None:
    """Raises InputError for a model whose gates did not all pass."""
    if not entry.gates:
        raise InputError(f"gates of {entry.version}", "none", "no gate has seen this model: say --force to serve it")
    if entry.gates.get("promote") is not True:
        remedy = "its gates did not pass (`llm-auction models show`): say --force to serve it all the same"
        raise InputError(f"gates of {entry.version}", "refused", remedy)


def routed(models: Registry, entry: ModelEntry) -> Version:
    """A registered model as a version of the route file, its files checked."""
    from serving.policies.route_file import Version

    folder = models.fetch(entry.version).resolve()
    return Version(entry.version, 100, str(folder), entry.digest)


def user() -> str:
    """Who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def told(change: Change) -> str:
    """A change as one line."""
    weights = ", ".join(f"{version.name} {version.weight}%" for version in change.after)
    return f"{change.kind} {change.version}: {weights}"
