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

    from trainers.tiny_base import Recipe, train_tiny_base

    recipe = Recipe(seed=seed, steps=steps) if steps else Recipe(seed=seed)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("starting", total=recipe.steps)

        def step(done: int, loss: float) -> None:
            progress.update(task, completed=done, description=f"step {done}, loss {loss:.3f}")

        policy, loss, accuracy = train_tiny_base(recipe, lambda text: progress.update(task, description=text), step)
    # half precision halves the file that is shipped; the base's figures are measured on what is read back from it
    policy.model.to(torch.float16)
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out)
    for kind, (share, count) in accuracy.items():
        typer.echo(f"reads {kind}: {share:.0%} of {count}")
    typer.echo(f"final loss {loss:.4f} nats a token; written to {out}")
