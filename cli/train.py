"""`llm-auction train`: runs or resumes an IRPO run and shows what each phase found."""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from trainers.config import RunConfig


def train(
    config: Annotated[str, typer.Argument(help="A shipped configuration (quick, ...) or a YAML file.")],
    out: Annotated[str, typer.Option(help="Run directory, any fsspec URL. Default: build/runs/NAME-TIME.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    phase: Annotated[str | None, typer.Option(help="Run this phase alone: feedback, reward_model, ...")] = None,
    epoch: Annotated[int | None, typer.Option(help="The epoch of --phase (from 1).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")] = None,
) -> None:
    """Train a policy by iterative reward-preference optimisation."""
    from mechanism.errors import ConfigError
    from trainers.config import load_config

    if phase is not None and epoch is None:
        raise ConfigError("--epoch", None, "--phase needs the epoch it belongs to, as in --epoch 1")
    if resume and not out:
        raise ConfigError("--out", "", "--resume needs the run directory to go on with")
    settings = load_config(config, set_ or [])
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    url = out or str(Path("build/runs") / f"{settings.name}-{stamp}")
    best = run_training(settings, url, resume=resume, only=phase, epoch=epoch)
    typer.echo(f"run directory: {url}\nbest epoch: {best}")
    if phase is None and best > 0:
        from cli.evaluate import open_session
        from trainers.release import register_best, registry_of

        entry = register_best(open_session(url, []))
        typer.echo(f"registered: {entry.version} in {registry_of(url).url}")


def run_training(
    config: RunConfig, url: str, *, resume: bool = False, only: str | None = None,
    epoch: int | None = None, fresh: bool = False,
) -> int:  # fmt: skip
    """Trains with progress on the terminal; returns the best epoch. `fresh` removes what stands at a local `url`."""
    from trainers.config import dump_config
    from trainers.irpo import train as irpo
    from trainers.run_directory import RunDirectory
    from trainers.session import Session

    console = Console(stderr=True)
    if fresh:
        shutil.rmtree(url, ignore_errors=True)
    run = RunDirectory(url)
    run.create(dump_config(config), resume=resume)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, note="")

        def say(text: str) -> None:
            progress.update(task, description=text, total=None, note="")

        def step(done: int, total: int, loss: float) -> None:
            progress.update(task, completed=done, total=total, note=f"step {done}/{total}, loss {loss:.3f}")

        def begin(name: str, number: int) -> None:
            progress.reset(task, total=None, description=f"epoch {number} {name}", note="")

        def report(name: str, number: int, found: str, seconds: float) -> None:
            console.print(f"epoch {number} {name:<13} {seconds:6.1f} s  {found}", highlight=False, soft_wrap=True)

        session = Session(config, run, say, step)
        best = irpo(session, begin, report, only, epoch)
    return best
