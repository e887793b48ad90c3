"""`llm-auction promote` and `rollback`: change which versions the routers that follow a route file send traffic to."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_REGISTRY, DEFAULT_ROUTES, RegistryUrl, RoutesFile
from mechanism.errors import InputError

if TYPE_CHECKING:
    from serving.canary.promotion_and_rollback import Change
    from serving.policies.route_file import Version
    from trainers.artifacts.registry import ModelEntry, Registry

Reason = Annotated[str, typer.Option("--why", help="The reason, for the history.")]
By = Annotated[str, typer.Option("--by", help="Who decides, for the history; by default the system's user.")]


def promote(
    version: Annotated[str, typer.Argument(help="A registered version, or latest.")],
    registry: RegistryUrl = DEFAULT_REGISTRY,
    routes: RoutesFile = DEFAULT_ROUTES,
    share: Annotated[
        int, typer.Option(help="Per cent of the traffic; the rest stays where it is.", min=1, max=100)
    ] = 100,
    why: Reason = "",
    by: By = "",
    force: Annotated[
        bool, typer.Option("--force", help="Promote even a model that failed its gates or has no gate results.")
    ] = False,
) -> None:
    """Route traffic to a version; answers under way finish on the version that began them."""
    from serving.canary.promotion_and_rollback import Deployment
    from trainers.artifacts.registry import Registry

    models = Registry(registry)
    entry = models.get(version)
    if not force:
        check_gates(entry)
    change = Deployment(routes).promote(routable_version(models, entry), by or current_user(), why, share)
    typer.echo(describe(change))


def rollback(
    routes: RoutesFile = DEFAULT_ROUTES,
    why: Reason = "",
    by: By = "",
    history: Annotated[bool, typer.Option("--history", help="Only list the changes so far.")] = False,
) -> None:
    """Route the newest version's traffic back to the one before it; each further call goes back one more."""
    from serving.canary.promotion_and_rollback import Deployment

    deployment = Deployment(routes)
    if not history:
        typer.echo(describe(deployment.rollback(by or current_user(), why)))
        return
    for change in deployment.history():
        typer.echo(f"{change.at:%Y-%m-%d %H:%M:%S}Z {describe(change)} (by {change.by}) {change.why}".rstrip())


def check_gates(entry: ModelEntry) -> None:
    """Refuse a model that has not passed all its gates.

    Raises:
        InputError: if a gate failed, or if no gate has judged the model.
    """
    if not entry.gates:
        raise InputError(
            f"gates of {entry.version}", "none", "no gate has judged this model: use --force to serve it anyway"
        )
    if entry.gates.get("promote") is not True:
        remedy = "its gates did not pass (`llm-auction models show`): use --force to serve it anyway"
        raise InputError(f"gates of {entry.version}", "refused", remedy)


def routable_version(models: Registry, entry: ModelEntry) -> Version:
    """Return a registered model as a version for the route file, its files verified."""
    from serving.policies.route_file import Version

    folder = models.fetch(entry.version).resolve()
    return Version(entry.version, 100, str(folder), entry.digest)


def current_user() -> str:
    """Return the name of the user who runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def describe(change: Change) -> str:
    """Return a change as one line."""
    weights = ", ".join(f"{version.name} {version.weight}%" for version in change.after)
    return f"{change.kind} {change.version}: {weights}"
