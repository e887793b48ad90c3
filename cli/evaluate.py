"""`llm-auction evaluate`: a run against its base model and the rival mechanisms; a table, report.json, report.html."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from trainers.evaluation.report import Report
    from trainers.session import Session


def evaluate(
    runs: Annotated[list[str], typer.Argument(help="Run directory; a second one trained with reward.source=oracle.")],
    out: Annotated[str, typer.Option(help="Folder or URL for report.json and report.html.")] = "build/report",
    epoch: Annotated[int | None, typer.Option(help="Evaluate this epoch and not the best one.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override an evaluation setting: key=value.")] = None,
) -> None:
    """Compare a trained run with the pretrained model and the rival mechanisms on held-out queries."""
    evaluate_runs(runs, out, epoch, set_ or [])


def evaluate_runs(runs: list[str], out: str, epoch: int | None = None, settings: list[str] | None = None) -> Report:
    """Evaluates, prints the table and writes the report."""
    from mechanism.errors import ConfigError
    from trainers.evaluation.harness import evaluate_run
    from trainers.evaluation.report import write_report
    from trainers.evaluation.table import print_report

    sessions = [open_session(url, settings or []) for url in runs]
    learned = [s for s in sessions if s.config.reward.source == "learned"]
    oracles = [s for s in sessions if s.config.reward.source == "oracle"]
    if len(learned) != 1 or len(oracles) > 1:
        raise ConfigError("RUNS", runs, "give one run trained on a learned pCTR and at most one oracle's")
    console = Console(stderr=True)
    with console.status("evaluating") as status:
        command = " ".join(["llm-auction", *sys.argv[1:]])
        report = evaluate_run(learned[0], status.update, command, oracles[0] if oracles else None, epoch)
    write_report(report, out)
    print_report(report, Console(width=max(100, Console().width)))
    typer.echo(f"report: {out.rstrip('/')}/report.html")
    return report


def open_session(url: str, settings: list[str]) -> Session:
    """A finished or unfinished run, opened for reading; `settings` are fields of its evaluation section."""
    from trainers.config import parse_config
    from trainers.run_directory import RunDirectory
    from trainers.session import Session

    run = RunDirectory(url)
    config = parse_config(run.config_text(), f"{url}/config.yaml", [f"evaluation.{x}" for x in settings])
    return Session(config, run, lambda text: None, lambda step, steps, loss: None)
