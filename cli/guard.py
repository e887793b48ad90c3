"""`llm-auction guard`: monitor the promoted version in the lake; keep it or roll it back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from cli.exits import stop_event
from cli.options import DEFAULT_REGISTRY, DEFAULT_ROUTES, LakeUrl, RegistryUrl, RoutesFile
from cli.promote import routable_version

if TYPE_CHECKING:
    from serving.canary.guard import GuardSettings
    from serving.canary.promotion_and_rollback import Change, Deployment
    from trainers.artifacts.registry import Registry

POLL_S = 5.0
"""Seconds between two reads of the lake."""
log = structlog.get_logger(__name__)


def guard(
    lake: LakeUrl,
    routes: RoutesFile = DEFAULT_ROUTES,
    promote: Annotated[
        bool, typer.Option("--promote", help="Also promote registered models as soon as their gates have passed.")
    ] = False,
    registry: RegistryUrl = DEFAULT_REGISTRY,
    share: Annotated[
        int,
        typer.Option(
            help="With --promote: per cent of the traffic until the version is kept. Below 100 both versions are "
            "compared by the answers of the same minutes, at 100 with earlier answers of the previous version.",
            min=1,
            max=100,
        ),
    ] = 50,
    least: Annotated[int, typer.Option(help="Answers, with their clicks, before a version is kept.")] = 300,
    patience: Annotated[
        int, typer.Option(help="Answers after which a version is kept that is neither worse nor known to be safe.")
    ] = 100_000,
    confidence: Annotated[
        float, typer.Option(help="0.99: at most one in a hundred versions that equal the previous one is rolled back.")
    ] = 0.99,
    slower: Annotated[
        float, typer.Option(help="Roll back if the p95 of answer times exceeds the previous version's by this factor.")
    ] = 3.0,
    revenue: Annotated[float, typer.Option(help="Share of the revenue per query that may be lost.")] = 0.1,
    ripe: Annotated[float, typer.Option(help="Seconds to wait for clicks before an answer is compared.")] = 60.0,
    window: Annotated[
        int, typer.Option(help="Earlier answers of the previous version to compare with, at a share of 100.")
    ] = 1_000,
) -> None:
    """Keep the newest version, or roll it back, by comparing its answers with those of the previous version."""
    from mechanism.canary.limits import Limits
    from serving.canary.guard import GuardSettings
    from serving.canary.promotion_and_rollback import Deployment

    limits = Limits(confidence=confidence, min_answers=least, max_latency_ratio=slower, max_revenue_loss=revenue)
    settings = GuardSettings(limits, patience, window)
    monitor(lake, Deployment(routes), settings, ripe, stop_event(), registry if promote else "", share)


def monitor(
    lake: str,
    deployment: Deployment,
    settings: GuardSettings,
    click_window_s: float,
    stop: threading.Event,
    registry: str = "",
    share: int = 100,
) -> None:
    """Read the lake and decide about the version on probation until `stop`; promote models if `registry` is given."""
    from mechanism.objective import Penalty
    from serving.canary.lake_cohorts import LakeCohorts
    from serving.canary.monitor import CanaryMonitor
    from streaming.lake.store import LakeUnavailable
    from trainers.artifacts.registry import Registry

    cohorts = LakeCohorts(lake, click_window_s, Penalty())
    judge = CanaryMonitor(deployment, cohorts, settings)
    models = Registry(registry) if registry else None
    while True:
        try:
            cohorts.refresh()
        except LakeUnavailable as error:
            log.warning("guard.lake_unavailable", reason=str(error)[:300])
        else:
            judge.check()
        if models is not None:
            promote_next(models, deployment, share)
        if stop.wait(POLL_S):
            return


def promote_next(models: Registry, deployment: Deployment, share: int = 100) -> Change | None:
    """Promote the newest model whose gates passed.

    Does nothing while a version is on probation, or if that model is older than the last change.
    """
    history = deployment.history()
    if not history or deployment.probation() is not None:
        return None
    passed = [m for m in models.list() if m.gates.get("promote") is True and m.created > history[-1].at]
    if not passed or passed[-1].version in {change.version for change in history}:
        return None
    return deployment.promote(routable_version(models, passed[-1]), "gates", "every gate passed", share)
