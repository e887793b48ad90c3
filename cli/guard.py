"""`llm-auction guard`: watches what was promoted in the event log and sends it back where its live figures fall."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from cli.promote import ROUTES, RegistryUrl, RoutesFile, routed
from cli.worker import LogAddress, Partitions, stopped

if TYPE_CHECKING:
    from serving.canary.deployment import Change, Deployment
    from serving.canary.guard import GuardSettings
    from serving.canary.samples import WindowSettings
    from streaming.log import EventLog
    from trainers.artifacts.registry import Registry

POLL_S = 0.5


def guard(
    log: LogAddress,
    routes: RoutesFile = ROUTES,
    promote: Annotated[
        bool, typer.Option("--promote", help="Also promote registered models as soon as their gates have passed.")
    ] = False,
    registry: RegistryUrl = "build/runs",
    share: Annotated[
        int, typer.Option(help="With --promote: per cent of the traffic until it is kept.", min=1, max=100)
    ] = 100,
    least: Annotated[int, typer.Option(help="Answers, clicks included, before a version is kept.")] = 300,
    least_early: Annotated[int, typer.Option(help="Answers before it goes back for time or failures.")] = 40,
    slower: Annotated[float, typer.Option(help="So many times the seconds of the version before are too many.")] = 3.0,
    revenue: Annotated[float, typer.Option(help="Share of the revenue per query that may be lost.")] = 0.1,
    ripe: Annotated[float, typer.Option(help="Seconds after an answer whose clicks are compared.")] = 60.0,
    window: Annotated[int, typer.Option(help="Answers of each version that are compared, the newest.")] = 1_000,
    partitions: Partitions = 3,
) -> None:
    """Keep the newest version, or roll it back, by its answers beside those of the version before."""
    from datetime import timedelta

    from serving.canary.deployment import Deployment
    from serving.canary.guard import GuardSettings
    from serving.canary.samples import WindowSettings
    from streaming.addresses import open_log
    from streaming.topics import all_topics

    settings = GuardSettings(least=least, least_early=least_early, slower=slower, revenue=revenue)
    events = open_log(log)
    events.create(all_topics(partitions, timedelta(days=30)))
    watch(
        events,
        Deployment(routes),
        settings,
        WindowSettings(window, ripe),
        stopped(),
        registry if promote else "",
        share,
    )


def watch(
    events: EventLog,
    deployment: Deployment,
    settings: GuardSettings,
    windows: WindowSettings,
    stop: threading.Event,
    registry: str = "",
    share: int = 100,
) -> None:
    """Until `stop`: reads the log, looks after the version on probation, and promotes what has passed its gates."""
    from mechanism.objective import Penalty
    from serving.canary.monitor import Guard, LogFeed
    from serving.canary.samples import LiveWindows
    from trainers.artifacts.registry import Registry

    seen = LiveWindows(windows, Penalty())
    watcher = Guard(deployment, seen, settings)
    models = Registry(registry) if registry else None
    with LogFeed(events, seen) as feed:
        while not stop.is_set():
            while feed.poll(POLL_S) and not stop.is_set():
                pass
            watcher.look()
            if models is not None:
                promote_next(models, deployment, share)


def promote_next(models: Registry, deployment: Deployment, share: int = 100) -> Change | None:
    """Promotes the newest model whose gates passed, if it is younger than all changes and nothing is on probation."""
    history = deployment.history()
    if not history or deployment.probation() is not None:
        return None
    passed = [m for m in models.list() if m.gates.get("promote") is True and m.created > history[-1].at]
    if not passed or passed[-1].version in {change.version for change in history}:
        return None
    return deployment.promote(routed(models, passed[-1]), "gates", "every gate passed", share)
