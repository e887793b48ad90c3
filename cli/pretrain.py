"""`llm-auction pretrain`: build a model from its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from trainers.pretraining.tiny_base import BaseQuality


def pretrain(
    model: Annotated[
        Literal["tiny", "assistant"],
        typer.Argument(help="tiny, the small base, or assistant, an adapter on SmolLM2-135M; both are shipped."),
    ] = "tiny",
    out: Annotated[Path | None, typer.Option(help="Folder for the model. Default: build/models/MODEL.")] = None,
    steps: Annotated[int, typer.Option(help="Optimiser steps; 0: as in the recipe.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of data and weights.")] = 0,
    start: Annotated[str, typer.Option("--from", help="tiny: run the recipe's last parts only, on this model.")] = "",
) -> None:
    """Train the model `tiny` on the built-in world, or the adapter `assistant` on everyday questions."""
    folder = out or Path("build/models") / model
    if model == "tiny":
        _tiny(folder, steps, seed, start)
    else:
        _assistant(folder, steps, seed)


def _assistant(folder: Path, steps: int, seed: int) -> None:
    from trainers.pretraining.assistant import AssistantRecipe, train_assistant

    recipe = AssistantRecipe(seed=seed, lessons=steps) if steps else AssistantRecipe(seed=seed)
    with _progress() as progress:
        task = progress.add_task("loading the base model", total=None)

        def step(done: int, steps: int, loss: float) -> None:
            progress.update(task, total=steps, completed=done, description=f"step {done}, loss {loss:.3f}")
            if not progress.console.is_terminal and done % 10 == 0:
                typer.echo(f"step {done} of {steps}, loss {loss:.3f}")

        policy, loss = train_assistant(recipe, step)
    policy.save(folder)
    typer.echo(f"final loss {loss:.4f} nats a token; written to {folder}")


def _tiny(folder: Path, steps: int, seed: int, start: str) -> None:
    import torch

    from inference.policy import Policy
    from trainers.pretraining.tiny_base import train_tiny_base
    from trainers.pretraining.tiny_model import Recipe

    recipe = Recipe(seed=seed, steps=steps) if steps else Recipe(seed=seed)
    before = recipe.steps + sum(recipe.late_steps)
    with _progress() as progress:
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
    folder.mkdir(parents=True, exist_ok=True)
    policy.save(folder)
    _print_quality(quality)
    typer.echo(f"final loss {quality.loss:.4f} nats a token; written to {folder}")


def _print_quality(quality: BaseQuality) -> None:
    for kind, (share, count) in quality.reading.items():
        new, questions = quality.reading_new[kind]
        typer.echo(f"{kind}: {share:.0%} of {count} correct with known titles, {new:.0%} of {questions} with new ones")
    shown = quality.new_titles
    typer.echo(
        f"best fitting offer shown in {shown.new:.0%} of answers with a new title, in {shown.known:.0%} with its own "
        f"({shown.offers} offers, {shown.answers} answers each)"
    )


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
