"""`llm-auction evaluate`: compare a run with its base model and the rival mechanisms, as table, JSON and HTML."""

from __future__ import annotations

import sys
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
        typer.Argument(help="A run, optionally with another one trained with reward.source=oracle; or one model."),
    ],
    out: Annotated[str, typer.Option(help="Folder or URL for report.json and report.html.")] = "build/report",
    epoch: Annotated[int | None, typer.Option(help="Evaluate this epoch in place of the best one.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override an evaluation setting: key=value.")] = None,
) -> None:
    """Compare a trained run with the pretrained model and the baseline mechanisms on held-out queries."""
    evaluate_runs(runs, out, epoch, set_ or [])


def evaluate_runs(runs: list[str], out: str, epoch: int | None = None, settings: list[str] | None = None) -> Report:
    """Evaluate, print the table and write the report.

    Raises:
        ConfigError: if the runs are not one trained on a learned pCTR and at most one trained on the oracle's.
    """
    from trainers.evaluation.comparison import Entrants
    from trainers.evaluation.harness import evaluate_run

    if len(runs) == 1 and not is_run(runs[0]):
        return evaluate_one_model(runs[0], out, settings or [])
    sessions = [open_session(url, settings or []) for url in runs]
    learned = [s for s in sessions if s.config.reward.source == "learned"]
    oracles = [s for s in sessions if s.config.reward.source == "oracle"]
    if len(learned) != 1 or len(oracles) > 1:
        raise ConfigError("RUNS", runs, "give one run trained on a learned pCTR and at most one oracle's")
    with Console(stderr=True).status("evaluating") as status:
        entrants = Entrants(oracle=oracles[0] if oracles else None)
        report = evaluate_run(learned[0], status.update, command_line(), entrants, epoch)
    return publish(report, out)


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
    from trainers.evaluation.text import print_report

    write_report(report, out)
    print_report(report, Console(width=max(100, Console().width)))
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
