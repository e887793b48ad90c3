"""`llm-auction retrain` and `due`: decide from the lake whether a retraining is due, and run it.

`due` only reports the decision as JSON: the operator's RetrainPolicy runs it in a Job. `retrain` also trains a model
and applies its gates.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cli.exits import print_error, stop_event
from cli.options import DEFAULT_REGISTRY, LakeUrl, OutcomeFile, RegistryUrl, Settings, Window
from mechanism.errors import AuctionError, ConfigError

if TYPE_CHECKING:
    from trainers.artifacts.registry import Registry
    from trainers.config import RetrainConfig, TriggerConfig
    from trainers.retraining import DueDecision, Observed, RetrainOutcome


def retrain(
    lake: LakeUrl,
    registry: Annotated[
        str,
        typer.Option(
            "--registry",
            "--models",
            envvar="LLM_AUCTION_REGISTRY",
            help="The model registry: a folder or URL that holds `models/`.",
        ),
    ] = DEFAULT_REGISTRY,
    serving: Annotated[str, typer.Option(help="The version that serves and wrote the log.")] = "",
    routes: Annotated[
        Path | None, typer.Option(help="Instead of --serving: the routers' route file; the version with most traffic.")
    ] = None,
    policy: Annotated[str, typer.Option(help="A shipped retraining policy (tiny) or a YAML file.")] = "tiny",
    work: Annotated[str, typer.Option(help="Folder or URL for the training runs.")] = "build/retraining",
    force: Annotated[bool, typer.Option("--force", help="Retrain now, even if it is not due.")] = False,
    watch: Annotated[bool, typer.Option("--watch/--once", help="Keep checking, or check once.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two checks of --watch.", min=0.1)] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per check.")] = False,
    set_: Settings = None,
) -> None:
    """Retrain the serving model from its own log when that is due, and register the result with its gates.

    Raises:
        ConfigError: if not exactly one of `--serving` and `--routes` is given.
        AuctionError: if the check or the training failed; with `--watch` it is printed and the next check follows.
    """
    from trainers.artifacts.registry import Registry
    from trainers.config import load_retraining

    if bool(serving) == (routes is not None):
        raise ConfigError("--serving", serving, "give either --serving VERSION or --routes FILE")
    retraining = Retraining(
        config=load_retraining(policy, set_ or []),
        lake=lake,
        models=Registry(registry),
        work=work,
        serving=(lambda: serving) if routes is None else lambda: most_routed_version(routes),
        as_json=as_json,
    )
    stop = stop_event() if watch else threading.Event()
    while True:
        try:
            retraining.check(force=force)
            force = False
        except AuctionError as error:
            if not watch:
                raise
            # the log may hold too little yet, or a store may be unreachable for a while
            print_error(str(error))
        if not watch or stop.wait(every):
            return


@dataclass(slots=True)
class Retraining:
    """Repeated checks of one log. `serving` returns the version that wrote it; `reason` is the last one printed."""

    config: RetrainConfig
    lake: str
    models: Registry
    work: str
    serving: Callable[[], str]
    as_json: bool
    reason: str = ""

    def check(self, *, force: bool) -> None:
        """Observe the lake, retrain if that is due, forced or unfinished, and print what is new."""
        from streaming.lake import TrainingSet
        from trainers.retraining import is_due, observe, retrain
        from trainers.retraining.attempts import Attempts

        entry, attempts = self.models.get(self.serving()), Attempts(self.work)
        version, now = entry.version, datetime.now(UTC)
        unfinished = attempts.unfinished(version) is not None
        observed = observe(TrainingSet(self.lake, self.config.log.window_s), entry, attempts, self.config)
        decision = is_due(observed, self.config.triggers, now)
        outcome = None
        if decision.due or force or unfinished:
            if not self.as_json:
                print_observation(version, observed, decision, unfinished)
            reason = decision.reason if decision.due else "--force" if force else "resumed an unfinished retraining"
            progress = progress_printer(quiet=self.as_json)
            outcome = retrain(self.config, self.lake, self.models, version, self.work, progress, reason=reason, now=now)
        if self.as_json:
            typer.echo(json.dumps(to_json(version, observed, decision, unfinished, outcome), ensure_ascii=False))
        elif outcome is not None:
            print_outcome(outcome)
        elif decision.reason != self.reason:
            print_observation(version, observed, decision, unfinished)
        self.reason = decision.reason


def most_routed_version(routes: Path) -> str:
    """Return the version with most of the traffic of a route file.

    Raises:
        ConfigError: if the file routes to no version.
    """
    from serving.canary.promotion_and_rollback import Deployment

    version = Deployment(routes).serving()
    if version is None:
        raise ConfigError("--routes", str(routes), "no version is routed there: give --serving VERSION")
    return version.name


def progress_printer(*, quiet: bool) -> Callable[[str], None]:
    """Return a function that prints progress to stderr, one line each, or that ignores it."""
    console = Console(stderr=True)
    return (lambda text: None) if quiet else lambda text: console.print(text, highlight=False, soft_wrap=True)


def print_observation(version: str, observed: Observed, decision: DueDecision, unfinished: bool) -> None:
    """Print what the lake holds and whether a retraining is due."""
    table = Table("observed", "value", title=f"Retraining of {version}", show_header=False, title_justify="left")
    table.add_row("new judged interactions", str(observed.new))
    table.add_row("log complete up to", timestamp(observed.watermark) or "not known")
    table.add_row("last retraining", timestamp(observed.last_at) or "never")
    ratio = observed.calibration
    table.add_row("clicks over expected", f"{ratio.mean:.2f} ({ratio.lo:.2f} to {ratio.hi:.2f})" if ratio else "-")
    table.add_row("shift of the queries", f"{observed.population:.4f}" if observed.population is not None else "-")
    table.add_row("due", ("yes: " if decision.due else "no: ") + decision.reason)
    if unfinished:
        table.add_row("unfinished", "an interrupted retraining: it is resumed")
    Console().print(table)


def print_outcome(outcome: RetrainOutcome) -> None:
    """Print the gates' decision and the model's registry entry."""
    table = Table("gate", "verdict", "reason")
    colours = {"passed": "green", "failed": "red", "refused": "yellow"}
    for gate in outcome.decision.gates:
        table.add_row(gate.name, f"[{colours.get(gate.verdict, 'dim')}]{gate.verdict}[/]", gate.reason)
    Console(width=max(100, Console().width)).print(table)
    if outcome.entry is None:
        typer.echo(f"the training produced no model; run: {outcome.run}")
        return
    follow = f": llm-auction promote {outcome.entry.version}" if outcome.promote else " by its gates"
    typer.echo(f"{outcome.entry.version} registered, {outcome.entry.status}{follow}; run: {outcome.run}")


def to_json(
    version: str, observed: Observed, decision: DueDecision, unfinished: bool, outcome: RetrainOutcome | None
) -> dict[str, Any]:
    """Return a check and its outcome as plain values."""
    entry = outcome.entry if outcome else None
    return {
        "serving": version,
        "observed": {
            "new": observed.new,
            "last_at": timestamp(observed.last_at),
            "watermark": timestamp(observed.watermark),
            "calibration": observed.calibration.to_dict() if observed.calibration else None,
            "population": observed.population,
            "unfinished": unfinished,
        },
        "decision": decision.to_dict(),
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


def timestamp(at: datetime | None) -> str | None:
    """Return a time in ISO 8601; None for None."""
    return at.isoformat() if at else None


def due(
    lake: LakeUrl,
    serving: Annotated[str, typer.Option(help="The version that serves and wrote the log.")],
    registry: RegistryUrl = DEFAULT_REGISTRY,
    triggers: Annotated[str, typer.Option(help="Triggers as JSON; missing fields have their defaults.")] = "{}",
    since: Annotated[str, typer.Option(help="When the last retraining began, ISO 8601; empty: there was none.")] = "",
    window: Window = 1_800.0,
    outcome: OutcomeFile = "",
) -> None:
    """Report whether a retraining is due and, if it is not, what is missing."""
    from streaming.lake import TrainingSet
    from trainers.artifacts.registry import Registry
    from trainers.config import RetrainConfig
    from trainers.retraining import is_due
    from trainers.retraining.observation import observe_since

    config, last = RetrainConfig(triggers=parse_triggers(triggers)), parse_moment("--since", since)
    entry = Registry(registry).get(serving)
    observed = observe_since(TrainingSet(lake, window), entry, last or entry.log_until, last or entry.log_until, config)
    decision = is_due(observed, config.triggers, datetime.now(UTC))
    result = {"new": observed.new, "watermark": timestamp(observed.watermark), **decision.to_dict()}
    text = json.dumps(result, ensure_ascii=False)
    if outcome:
        Path(outcome).write_text(text, encoding="utf-8")
    else:
        typer.echo(text)


def parse_triggers(text: str) -> TriggerConfig:
    """Parse the triggers' JSON.

    Raises:
        ConfigError: if it does not fit the schema.
    """
    from pydantic import ValidationError

    from trainers.config import TriggerConfig

    try:
        return TriggerConfig.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError("--triggers", text, str(error)) from error


def parse_moment(option: str, text: str) -> datetime | None:
    """Parse an option's time with its zone; None for an empty text.

    Raises:
        ConfigError: if it is not in ISO 8601 or has no time zone.
    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(option, text, "give a time such as 2026-11-25T12:00:00+00:00") from error
    if at.tzinfo is None:
        raise ConfigError(option, text, "add the time zone, such as +00:00")
    return at
