"""`llm-auction evaluate`: compare a run with its base model and the rival mechanisms, as table, JSON and HTML."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mechanism.errors import ConfigError
from mechanism.weights import ENTRY

if TYPE_CHECKING:
    from trainers.evaluation.report import Report
    from trainers.irpo.session import Session


def evaluate(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="A run, optionally with others of its world: reward.source=oracle, other objectives; or one model."
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder or URL for report.json and report.html.")] = "build/report",
    epoch: Annotated[int | None, typer.Option(help="Evaluate this epoch in place of the best one.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override an evaluation setting: key=value.")] = None,
) -> None:
    """Compare a trained run with the pretrained model and the baseline mechanisms on held-out queries."""
    evaluate_runs(runs, out, epoch, set_ or [])


def evaluate_runs(runs: list[str], out: str, epoch: int | None = None, settings: list[str] | None = None) -> Report:
    """Evaluate, print the table and write the report."""
    if len(runs) == 1 and not is_run(runs[0]):
        return evaluate_one_model(runs[0], out, settings or [])
    return publish(compared([open_session(url, settings or []) for url in runs], epoch), out)


def compared(sessions: Sequence[Session], epoch: int | None = None) -> Report:
    """Compare a run with all mechanisms, the runs of other objectives and the best attainable answers.

    Raises:
        ConfigError: if the runs are not one of IRPO on a learned pCTR, and at most one of each other kind.
    """
    from trainers.evaluation.attainable import attainable
    from trainers.evaluation.comparison import Entrants
    from trainers.evaluation.harness import evaluate_run

    by_kind = {_kind(session): session for session in sessions}
    ours = by_kind.pop("llm_auction", None)
    if ours is None or len(by_kind) + 1 != len(sessions):
        found = [_kind(session) for session in sessions]
        raise ConfigError("RUNS", found, "give one run of IRPO on a learned pCTR, and at most one of each other kind")
    entrants = Entrants(
        oracle=by_kind.pop("oracle", None),
        learned=by_kind,
        optimum=attainable(ours) if ours.config.world.kind == "builtin" else None,
    )
    with Console(stderr=True).status("evaluating") as status:
        return evaluate_run(ours, status.update, command_line(), entrants, epoch)


def _kind(session: Session) -> str:
    """Return the name of a run's method in the table."""
    if session.config.reward.source == "oracle":
        return "oracle"
    objective = session.config.optimisation.objective
    return {"preference": "llm_auction", "winners": "best_of_m", "rloo": "rloo"}[objective]


def evaluate_one_model(model: str, out: str, settings: list[str]) -> Report:
    """Evaluate a model, given by name or folder, on the built-in world, without baselines."""
    from trainers.artifacts.run_directory import RunDirectory
    from trainers.config import parse_config
    from trainers.evaluation.harness import evaluate_model
    from trainers.irpo.session import Session

    config = parse_config("name: model", "model", [f"base={model}", *(f"evaluation.{x}" for x in settings)])
    session = Session(config, RunDirectory("memory://evaluation"))
    method = "llm_auction" if (Path(model) / ENTRY).is_file() else "pretrained"
    with Console(stderr=True).status("evaluating") as status:
        report = evaluate_model(session, method, status.update, command_line())
    return publish(report, out)


def publish(report: Report, out: str) -> Report:
    """Write the report and print its table."""
    from trainers.evaluation.page import write_report
    from trainers.evaluation.rules_table import rules_table
    from trainers.evaluation.text import print_report

    console = Console(width=max(100, Console().width))
    write_report(report, out)
    print_report(report, console)
    if report.equilibrium is not None:
        console.print(rules_table(report.equilibrium))
    typer.echo(f"report: {out.rstrip('/')}/report.html")
    return report


def command_line() -> str:
    """Return the command line, for the report."""
    return " ".join(["llm-auction", *sys.argv[1:]])


def is_run(url: str) -> bool:
    """Return whether `url` is a run directory."""
    from trainers.artifacts.run_directory import RunDirectory

    return bool(RunDirectory(url).exists("config.yaml"))


def open_session(url: str, settings: list[str]) -> Session:
    """Open a run, finished or not, for reading; `settings` override fields of its evaluation section."""
    from trainers.artifacts.run_directory import RunDirectory
    from trainers.config import parse_config
    from trainers.irpo.session import Session

    run = RunDirectory(url)
    config = parse_config(run.config_text(), f"{url}/config.yaml", [f"evaluation.{x}" for x in settings])
    return Session(config, run)
