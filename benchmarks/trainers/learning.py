"""`make bench-learning`: train a configuration, evaluate it on held-out queries, write the figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/learning.json"),
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "quick",
    oracle: Annotated[bool, typer.Option(help="Also train on true probabilities, for the oracle's column.")] = True,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs that are there.")] = False,
) -> None:
    """Train a configuration from the shipped base, evaluate it on held-out queries, write report and train_seconds."""
    from cli.evaluate import evaluate_runs
    from cli.train import run_training
    from trainers.config import load_config

    folder = out.parent / f"{out.stem}-runs"
    runs = [str(folder / "learned")] + ([str(folder / "oracle")] if oracle else [])
    for url in runs:
        settings = ["reward.source=oracle"] if url.endswith("oracle") else []
        run_training(load_config(config, settings), url, fresh=not resume, resume=resume)
    report = evaluate_runs(runs, str(folder / "report"))
    out.write_text(json.dumps(report.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    typer.echo(f"figures: {out}; training took {report.train_seconds:.0f} s")


if __name__ == "__main__":
    typer.run(main)
