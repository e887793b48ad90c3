"""`llm-auction retrain`: looks at the log's shards, says what it waits for, and trains and judges a model when due."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mechanism.errors import AuctionError, ConfigError

if TYPE_CHECKING:
    from trainers.retraining import Due, Observed, RetrainOutcome


def retrain(
    shards: Annotated[str, typer.Option(envvar="LLM_AUCTION_SHARDS", help="The log's shards: a folder or URL.")],
    registry: Annotated[
        str, typer.Option("--registry", "--models", envvar="LLM_AUCTION_REGISTRY", help="Holds `models/`.")
    ] = "build/runs",
    serving: Annotated[str, typer.Option(help="The version that serves and wrote the log.")] = "",
    routes: Annotated[
        Path | None, typer.Option(help="Or the routers' route file: the version with most of the traffic.")
    ] = None,
    policy: Annotated[str, typer.Option(help="A shipped retraining policy (tiny) or a YAML file.")] = "tiny",
    work: Annotated[str, typer.Option(help="Keeps the runs: a folder or URL.")] = "build/retraining",
    force: Annotated[bool, typer.Option("--force", help="Retrain now, due or not.")] = False,
    watch: Annotated[bool, typer.Option("--watch/--once", help="Go on looking, or look once.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look, on one line.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")] = None,
) -> None:
    """Retrain the serving model from its own log when that is due, and register the result with its gates."""
    from cli.main import complain
    from cli.worker import stopped
    from streaming.shards import ShardReader
    from trainers.artifacts.registry import Registry
    from trainers.config import load_retraining
    from trainers.retraining import due, observe, retrain
    from trainers.retraining.attempts import Attempts

    if bool(serving) == (routes is not None):
        raise ConfigError("--serving", serving, "give either --serving VERSION or --routes FILE")
    config, models, attempts = load_retraining(policy, set_ or []), Registry(registry), Attempts(work)
    stop = stopped() if watch else threading.Event()
    said = ""

    def look(forced: bool, said: str) -> str:
        """One look, and a retraining where it is time for one; returns what is being waited for."""
        version = models.get(serving or routed(routes)).version
        now = datetime.now(UTC)
        unfinished = attempts.unfinished(version) is not None
        observed = observe(ShardReader(shards), models.get(version), attempts, config)
        told = due(observed, config.triggers, now)
        outcome = None
        if told.due or forced or unfinished:
            if not as_json:
                report(version, observed, told, unfinished)
            reason = told.reason if told.due else "asked for (--force)" if forced else "an unfinished one goes on"
            outcome = retrain(config, shards, models, version, work, say(as_json), reason=reason, now=now)
        if as_json:
            typer.echo(json.dumps(record(version, observed, told, unfinished, outcome), ensure_ascii=False))
        elif outcome is not None:
            verdicts(outcome)
        elif told.reason != said:
            report(version, observed, told, unfinished)
        return told.reason

    while True:
        try:
            said, force = look(force, said), False
        except AuctionError as error:
            if not watch:
                raise
            # a log that holds too little yet, or a store that is away, is no reason to stop watching
            complain(str(error))
        if not watch or stop.wait(every):
            return


def routed(routes: Path | None) -> str:
    """The version with most of the traffic of a route file. Raises InputError where nothing is routed."""
    from serving.canary.deployment import Deployment

    assert routes is not None
    found = Deployment(routes).serving()
    if found is None:
        raise ConfigError("--routes", str(routes), "nothing is routed there: give --serving VERSION")
    return found.name


def say(quiet: bool) -> Any:
    """Progress goes to standard error, a line each, or nowhere."""
    console = Console(stderr=True)
    return (lambda text: None) if quiet else lambda text: console.print(text, highlight=False, soft_wrap=True)


def report(version: str, observed: Observed, told: Due, unfinished: bool) -> None:
    """What was observed, for people."""
    table = Table("observed", "value", title=f"Retraining of {version}", show_header=False, title_justify="left")
    table.add_row("new judged interactions", str(observed.new))
    table.add_row("log complete up to", moment(observed.watermark) or "not known")
    table.add_row("last retraining", moment(observed.last_at) or "never")
    ratio = observed.calibration
    table.add_row("clicks over expected", f"{ratio.mean:.2f} ({ratio.lo:.2f} to {ratio.hi:.2f})" if ratio else "-")
    table.add_row("shift of the queries", f"{observed.population:.4f}" if observed.population is not None else "-")
    table.add_row("due", ("yes: " if told.due else "no: ") + told.reason)
    if unfinished:
        table.add_row("unfinished", "a retraining was killed: it goes on")
    Console().print(table)


def verdicts(outcome: RetrainOutcome) -> None:
    """The gates' decision, for people."""
    table = Table("gate", "verdict", "reason")
    colours = {"passed": "green", "failed": "red", "refused": "yellow"}
    for gate in outcome.decision.gates:
        table.add_row(gate.name, f"[{colours.get(gate.verdict, 'dim')}]{gate.verdict}[/]", gate.reason)
    Console(width=max(100, Console().width)).print(table)
    if outcome.entry is None:
        typer.echo(f"no model came of it; run: {outcome.run}")
        return
    follow = f": llm-auction promote {outcome.entry.version}" if outcome.promote else " by its gates"
    typer.echo(f"{outcome.entry.version} registered, {outcome.entry.status}{follow}; run: {outcome.run}")


def record(
    version: str, observed: Observed, told: Due, unfinished: bool, outcome: RetrainOutcome | None
) -> dict[str, Any]:
    """All of it for programs."""
    entry = outcome.entry if outcome else None
    return {
        "serving": version,
        "observed": {
            "new": observed.new,
            "last_at": moment(observed.last_at),
            "watermark": moment(observed.watermark),
            "calibration": observed.calibration.to_dict() if observed.calibration else None,
            "population": observed.population,
            "unfinished": unfinished,
        },
        "decision": told.to_dict(),
        "outcome": {
            "version": entry.version if entry else None,
            "status": entry.status if entry else "stopped",
            "promote": outcome.promote,
            "run": outcome.run,
            "gates": outcome.decision.to_dict(),
        }
        if outcome
        else None,
    }


def moment(at: datetime | None) -> str | None:
    """ISO 8601, or None."""
    return at.isoformat() if at else None
