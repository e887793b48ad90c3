"""`llm-auction run`: the whole story on one machine: train, compare, serve. A second call resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "quick",
    out: Annotated[Path, typer.Option(help="Folder of the run; a finished run is not trained again.")] = Path(
        "build/runs/run"
    ),
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8080,
    serve_: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the trained model at the end.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the earlier run and train again.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")] = None,
) -> None:
    """Train the quick configuration, print the table of methods, then serve the result."""
    from cli.evaluate import evaluate_runs, open_session
    from cli.train import run_training
    from trainers.config import load_config
    from trainers.release import register_best, registry_of

    settings = load_config(config, set_ or [])
    typer.echo(
        f"base model {settings.base}; {settings.epochs} epochs of IRPO follow, then a table against the rival "
        "mechanisms, then the page. Stop with Ctrl+C; the same command goes on from there.",
        err=True,
    )
    run_training(settings, str(out), resume=True, fresh=fresh)
    session = open_session(str(out), [])
    entry = register_best(session)
    report = out / "report" / "report.json"
    if not report.is_file():
        # fewer answers than `evaluate` takes for the continuity curve: a newcomer waits for the page
        evaluate_runs([str(out)], str(report.parent), settings=["continuity_answers=40"])
    else:
        show(report)
    if serve_:
        from cli.serve import serve

        serve(model=str(registry_of(str(out)).fetch(entry.version)), port=port, anonymous=True)


def show(report: Path) -> None:
    """Prints the table of an evaluation that was made before."""
    from rich.console import Console

    from trainers.evaluation.report_files import read_report
    from trainers.evaluation.table import print_report

    print_report(read_report(report), Console(width=max(100, Console().width)))
    typer.echo(f"report: {report.with_suffix('.html')}")
