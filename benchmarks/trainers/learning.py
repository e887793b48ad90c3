"""`make bench-learning`: train a configuration, evaluate it on held-out queries, write the figures as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.figures import write_figures


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/learning.json"),
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "quick",
    oracle: Annotated[
        bool, typer.Option(help="Also train on the true click probabilities, for the oracle's column.")
    ] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Resume earlier runs.")] = False,
) -> None:
    """Train a configuration from the shipped base, evaluate it on held-out queries, write report and figures."""
    from cli.evaluate import evaluate_runs
    from cli.train import run_training
    from trainers.config import load_config

    folder = out.parent / f"{out.stem}-runs"
    runs = [str(folder / "learned")] + ([str(folder / "oracle")] if oracle else [])
    for url in runs:
        settings = ["reward.source=oracle"] if url.endswith("oracle") else []
        run_training(load_config(config, settings), url, fresh=not resume, resume=resume)
    report = evaluate_runs(runs, str(folder / "report"))
    write_figures(out, report.model_dump(mode="json"))
    typer.echo(f"figures: {out}; training took {report.train_seconds:.0f} s")


if __name__ == "__main__":
    typer.run(main)
