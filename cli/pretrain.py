"""`llm-auction pretrain`: rebuild the shipped base model `tiny` from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder for the model.")] = Path("build/models/tiny"),
    steps: Annotated[int, typer.Option(help="Optimiser steps; 0: as in the recipe.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of world, corpus and weights.")] = 0,
    start: Annotated[str, typer.Option("--from", help="Run only the recipe's last parts, on this base model.")] = "",
) -> None:
    """Train the tokenizer and the tiny base model on the built-in world's supervised corpus."""
    import torch

    from inference.policy import Policy
    from trainers.pretraining.tiny_base import train_tiny_base
    from trainers.pretraining.tiny_model import Recipe

    recipe = Recipe(seed=seed, steps=steps) if steps else Recipe(seed=seed)
    before = recipe.steps + sum(recipe.late_steps)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("starting", total=sum(recipe.last_steps) + (0 if start else before))

        def step(done: int, loss: float) -> None:
            progress.update(task, completed=done, description=f"step {done}, loss {loss:.3f}")

        policy, quality = train_tiny_base(
            recipe,
            lambda text: progress.update(task, description=text),
            step,
            Policy.load(start) if start else None,
        )
    # half precision halves the shipped file; the base model's published figures are measured on this file
    policy.model.to(torch.float16)
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out)
    for kind, (share, count) in quality.reading.items():
        new, questions = quality.reading_new[kind]
        typer.echo(f"{kind}: {share:.0%} of {count} correct with known titles, {new:.0%} of {questions} with new ones")
    shown = quality.new_titles
    typer.echo(
        f"best fitting offer shown in {shown.new:.0%} of answers with a new title, in {shown.known:.0%} with its own "
        f"({shown.offers} offers, {shown.answers} answers each)"
    )
    typer.echo(f"final loss {quality.loss:.4f} nats a token; written to {out}")
