"""`llm-auction pretrain`: makes the shipped base model `tiny` again, from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("build/models/tiny"),
    steps: Annotated[int, typer.Option(help="Optimiser steps; 0: the recipe's own number.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of world, corpus and weights.")] = 0,
) -> None:
    """Train the tokenizer and the tiny base model on the built-in world's supervised corpus."""
    import torch

    from trainers.pretraining.tiny_base import train_tiny_base
    from trainers.pretraining.tiny_model import Recipe

    recipe = Recipe(seed=seed, steps=steps) if steps else Recipe(seed=seed)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("starting", total=recipe.steps + sum(recipe.late_steps))

        def step(done: int, loss: float) -> None:
            progress.update(task, completed=done, description=f"step {done}, loss {loss:.3f}")

        policy, quality = train_tiny_base(recipe, lambda text: progress.update(task, description=text), step)
    # half precision halves the file that is shipped; the base's figures are measured on what is read back from it
    policy.model.to(torch.float16)
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out)
    for kind, (share, count) in quality.reading.items():
        new, questions = quality.reading_new[kind]
        typer.echo(f"reads {kind}: {share:.0%} of {count} under known titles, {new:.0%} of {questions} under new ones")
    shown = quality.new_titles
    typer.echo(
        f"shows the offer that fits best in {shown.new:.0%} of answers under a title that is new to it, in "
        f"{shown.known:.0%} under its own ({shown.offers} offers, {shown.answers} answers each)"
    )
    typer.echo(f"final loss {quality.loss:.4f} nats a token; written to {out}")
