"""`llm-auction plan`: what a run needs of each GPU's memory, before one is rented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from cli.options import Settings
from mechanism.errors import ConfigError

if TYPE_CHECKING:
    from trainers.optimisation.memory_plan import Load, Need, Shape

GPUS: Final = re.compile(r"(\d{1,5})x(\d{1,4})GB")
DOES_NOT_FIT: Final = 1


def plan(
    config: Annotated[str, typer.Argument(help="Configuration: a shipped name or a YAML file.")],
    gpus: Annotated[str, typer.Option(help="GPUs and the memory of each: 8x80GB.")],
    shape: Annotated[
        Path | None, typer.Option(help="The model's config.json, where neither folder nor hub has it.")
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a prompt. Default: 40 for each offer, and 160.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    set_: Settings = None,
) -> None:
    """Print the memory that each GPU needs in rollouts and optimisation; the exit status is 1 where it does not fit.

    Raises:
        ConfigError: if the GPUs are malformed, fewer than the processes, or the model's shape is not at hand.
        Exit: with status 1, where it does not fit.
    """
    from trainers.config import load_config
    from trainers.optimisation.memory_plan import load_of, shape_of
    from trainers.optimisation.memory_plan import plan as needs_of

    match = GPUS.fullmatch(gpus)
    if match is None:
        raise ConfigError("--gpus", gpus, "write COUNTxMEMORY in GB, as in 8x80GB")
    settings = load_config(config, set_ or [])
    if settings.optimisation.processes > int(match[1]):
        remedy = f"optimisation.processes is {settings.optimisation.processes}: give as many GPUs, or lower it"
        raise ConfigError("--gpus", gpus, remedy)
    found = shape_of(settings.base, shape)
    load = load_of(settings, prompt_tokens)
    needs, room = needs_of(settings, found, load), int(match[2]) * 1e9 / 2**30
    if as_json:
        typer.echo(json.dumps(summary(needs, room, found, load), indent=2))
    else:
        show(needs, room, found, load)
    if any(need.total > room for need in needs):
        raise typer.Exit(DOES_NOT_FIT)


def summary(needs: list[Need], room: float, shape: Shape, load: Load) -> dict[str, object]:
    """Return the plan as plain values, in GiB."""
    return {
        "parameters": shape.parameters,
        "tokens_per_pass": load.tokens,
        "gpu_gib": room,
        "phases": {n.phase: {**n.parts, "total": n.total, "fits": n.total <= room} for n in needs},
    }


def show(needs: list[Need], room: float, shape: Shape, load: Load) -> None:
    """Print a row for each purpose and one for the total."""
    table = Table(title=f"GiB on each GPU of {room:.1f}")
    table.add_column("")
    for need in needs:
        table.add_column(need.phase, justify="right")
    for name in dict.fromkeys(name for need in needs for name in need.parts):
        table.add_row(name, *(f"{need.parts[name]:.1f}" if name in need.parts else "" for need in needs))
    table.add_section()
    verdicts = (f"{need.total:.1f} {'fits' if need.total <= room else 'too much'}" for need in needs)
    table.add_row("with reserves", *verdicts)
    Console().print(table)
    typer.echo(
        f"{shape.parameters / 1e9:.2f} billion parameters; a forward pass has {load.prompts} prompts of "
        f"{load.prompt_tokens} tokens and {load.answers} answers of {load.answer_tokens} to each"
    )
