"""`llm-auction run`: serve, train, compare, promote and keep retraining from the log, all on one machine.

Without a configuration nothing is trained first. A second call resumes: nothing that was answered,
clicked, charged, judged or trained is lost or repeated.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from cli.exits import stop_event
from cli.options import Settings
from mechanism.errors import ConfigError, GuardError

if TYPE_CHECKING:
    from cli.local.loop import Loop
    from trainers.config import RunConfig

DEFAULT_MODEL: Final = "assistant"
PATIENCE = 300
"""Answers after which a version is kept that is not known to be worse: a demonstration cannot wait for certainty."""
PRINT_INTERVAL_S = 20.0
"""How often the table is printed when stdout is not a terminal, where it would be updated in place."""

QUICKER: Final = (
    "queries=100",
    "mosaic_samples=5",
    "swept_contexts=16",
    "continuity_queries=0",
    "screened=12",
    "finalists=1",
    "mosaic_contexts=8",
)
"""Evaluation settings of the first table, which somebody is waiting for: smaller than those of `evaluate`."""


def run(
    model: Annotated[
        str,
        typer.Option(help="Model or folder to serve and retrain. Default: assistant, a real language model."),
    ] = "",
    config: Annotated[
        str, typer.Option(help="Train by this configuration first (quick: minutes), in place of --model.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Run directory; a finished run is not trained again.")] = Path(
        "build/runs/run"
    ),
    port: Annotated[int, typer.Option(help="Port of the chat page.", min=1, max=65535)] = 8080,
    serve_: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve, or only train and compare.")] = True,
    loop: Annotated[
        bool, typer.Option("--loop/--no-loop", help="Simulate users, and retrain the model from their clicks.")
    ] = True,
    rate: Annotated[
        float | None, typer.Option(help="Questions a second of the simulated users. Default: of tiny 2, else 0.1.")
    ] = None,
    state_dir: Annotated[Path, typer.Option(help="Folder of the ledger, the event log and the lake.")] = Path(
        "build/serve"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove the earlier run and train again.")] = False,
    set_: Settings = None,
) -> None:
    """Serve a model, let simulated users ask it, and retrain it from its traffic; with --config, train it first.

    Raises:
        ConfigError: if a model is served with settings of a training, or with nothing to do.
    """
    from trainers.config import load_config

    if model and config:
        raise ConfigError("--model", model, "give --model or --config: a configuration names the model that it trains")
    if not config and (set_ or not (serve_ and loop)):
        remedy = "give --config with --set, --no-serve and --no-loop: without it nothing is trained first"
        raise ConfigError("--config", config, remedy)
    model = model or DEFAULT_MODEL
    settings = load_config(config, set_ or []) if config else None
    if settings is None or (serve_ and loop and settings.world.kind in ("builtin", "everyday")):
        start = LoopStart(settings.base if settings else model, settings, out, fresh)
        run_loop(start, port, rate, state_dir)
        return
    version = train_and_compare(settings, out, fresh=fresh)
    if serve_:
        from cli.serve import serve
        from trainers.retraining.release import registry_of

        serve(model=str(registry_of(str(out)).fetch(version)), port=port, anonymous=True, state_dir=state_dir)


def train_and_compare(settings: RunConfig, out: Path, *, fresh: bool = False) -> str:
    """Train what is not trained yet, register the best epoch, print the table, and return the registered version."""
    from cli.evaluate import evaluate_runs, open_session
    from cli.train import run_training
    from trainers.retraining.release import register_best

    typer.echo(
        f"base model {settings.base}; {settings.epochs} epochs of IRPO follow, then a table against the baseline "
        "mechanisms. Stop with Ctrl+C; the same command resumes.",
        err=True,
    )
    run_training(settings, str(out), resume=True, fresh=fresh)
    entry = register_best(open_session(str(out), []))
    report = out / "report" / "report.json"
    if not report.is_file():
        evaluate_runs([str(out)], str(report.parent), settings=list(QUICKER))
    else:
        print_earlier_report(report)
    return entry.version


@dataclass(frozen=True, slots=True)
class LoopStart:
    """The model that the loop begins with, and the run to train first, if there is one."""

    base: str
    settings: RunConfig | None
    out: Path
    fresh: bool


def run_loop(start: LoopStart, port: int, rate: float | None, state_dir: Path) -> None:
    """Serve the base model, train and promote a first model if asked, then retrain from the log until Ctrl+C."""
    from cli.listening import listen
    from cli.local.loop import (
        Loop,
        LoopPaths,
        base_version,
        profile_of,
        register_base,
        retraining_program,
        serving_programs,
    )
    from cli.promote import routable_version
    from serving.canary.guard import GuardSettings
    from serving.canary.promotion_and_rollback import Deployment
    from trainers.retraining.release import registry_of

    listen("127.0.0.1", port).close()  # report a port in use before anything is started
    models = registry_of(str(start.out))
    paths = LoopPaths(state_dir, models.url)
    deployment = Deployment(paths.routes)
    register_base(start.base, models.url)
    if not deployment.versions():
        deployment.start(base_version(start.base), "run", "the base model")
    loop = Loop(paths, deployment, GuardSettings(patience_answers=PATIENCE))
    address = f"http://localhost:{port}"
    profile = profile_of(start.base, rate)
    try:
        for program in serving_programs(paths, port, profile):
            loop.supervisor.start(program)
        typer.echo(f"serving {start.base} at {address} in a moment (logs of all processes in {paths.output})", err=True)
        typer.echo(invitation(address, state_dir, sys.stderr.isatty()), err=True)
        if start.settings is not None:
            try:
                version = train_and_compare(start.settings, start.out, fresh=start.fresh)
                if version not in {change.version for change in deployment.history()}:
                    deployment.promote(routable_version(models, models.get(version)), "run", "the first training")
            except GuardError as error:  # retraining from the log may still succeed
                typer.secho(f"the first training failed, the base model keeps serving: {error}", err=True)
        loop.supervisor.start(retraining_program(paths, profile))
        show_loop(loop, address)
    finally:
        typer.echo("stopping", err=True)
        loop.supervisor.stop()


def invitation(address: str, state_dir: Path, is_terminal: bool) -> str:
    """Return a line on how to open the console signed in; the one-time address is for a terminal, never for a log."""
    from datetime import UTC, datetime

    from serving.accounts.sign_in import sign_in_address

    if not is_terminal:
        return f"`{sys.argv[0]} sign-in --state-dir {state_dir}` prints an address that opens the console signed in"
    return f"the console, signed in (works once): {sign_in_address(address, state_dir, datetime.now(UTC))}"


def show_loop(loop: Loop, address: str) -> None:
    """Run the loop until SIGTERM or Ctrl+C and keep its table in the terminal, or print it every minute."""
    from rich.live import Live

    from cli.local.table import loop_table
    from trainers.artifacts.registry import Registry

    models, console = Registry(loop.paths.registry), Console()
    printed_at = 0.0
    with Live(console=console, refresh_per_second=1, transient=False) as live:

        def update(running: Loop) -> None:
            nonlocal printed_at
            table = loop_table(running, models.list(), address)
            if console.is_terminal:
                live.update(table)
            elif time.monotonic() - printed_at > PRINT_INTERVAL_S:
                printed_at = time.monotonic()
                console.print(table)

        loop.run(stop_event(), update)


def print_earlier_report(report: Path) -> None:
    """Print the table of an earlier evaluation."""
    from trainers.evaluation.report import read_report
    from trainers.evaluation.text import print_report

    print_report(read_report(report), Console(width=max(100, Console().width)))
    typer.echo(f"report: {report.with_suffix('.html')}")
