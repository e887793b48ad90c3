"""`make bench-learning`: train a configuration and its learned rivals, compare all methods, over several seeds.

Every seed trains the run itself, the same rollouts under other objectives (best-of-M distillation and RLOO), and
optionally the oracle; the rivals without training are tuned and played by the evaluation. With several seeds the
figures are those over all seeds and queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.figures import write_figures

OBJECTIVES = {
    "best_of_m": ("optimisation.objective=winners",),
    # Off-policy answers are refused by RLOO; as many passes give it as many optimiser steps.
    "rloo": (
        "optimisation.objective=rloo",
        "preference.counterfactual_bids=0",
        "rollout.proposals=0",
        "preference.edited=0",
        "preference.swaps=0",
        "preference.removals=0",
        "preference.additions=0",
        "optimisation.passes=4",
    ),
}
ORACLE = "reward.source=oracle"


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/learning.json"),
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "quick",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 1,
    learned_rivals: Annotated[bool, typer.Option(help="Also train best-of-M distillation and RLOO.")] = True,
    oracle: Annotated[bool, typer.Option(help="Also train on the true click probabilities.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key=value.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume earlier runs.")] = False,
) -> None:
    """Train, evaluate on held-out queries, and write the reports and the figures."""
    from cli.evaluate import compared, open_session, publish
    from trainers.evaluation.report import Report
    from trainers.evaluation.seeds import merge, seeds_table

    folder, reports = out.parent / f"{out.stem}-runs", list[Report]()
    variants: dict[str, Sequence[str]] = {"llm_auction": (), **(OBJECTIVES if learned_rivals else {})}
    variants |= {"oracle": (ORACLE,)} if oracle else {}
    for seed in range(seeds):
        runs = {name: folder / f"seed-{seed}" / name for name in variants}
        for name, own in variants.items():
            _train(config, [*(set_ or []), *own, f"seed={seed}"], runs[name], resume=resume)
        sessions = [open_session(str(run), []) for run in runs.values()]
        reports.append(publish(compared(sessions), str(folder / f"seed-{seed}" / "report")))
    figures: dict[str, Any] = {"reports": [report.model_dump(mode="json") for report in reports]}
    if seeds > 1:
        merged = merge(reports)
        Console(width=max(140, Console().width)).print(seeds_table(merged))
        figures["over_seeds"] = merged.to_dict()
    write_figures(out, figures)
    typer.echo(f"figures: {out}; training took {', '.join(f'{r.train_seconds:.0f}' for r in reports)} s")


def _train(config: str, settings: list[str], run: Path, *, resume: bool) -> None:
    from cli.train import run_training
    from trainers.config import load_config

    typer.echo(f"training {run}")
    run_training(load_config(config, settings), str(run), fresh=not resume, resume=resume)


if __name__ == "__main__":
    typer.run(main)
