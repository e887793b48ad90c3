"""`llm-auction train`: run or resume an IRPO run and print one line of results per phase."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cli.options import OutcomeFile, Settings
from mechanism.errors import ConfigError

if TYPE_CHECKING:
    from trainers.config import GateSettings, RunConfig
    from trainers.optimisation.sharding import Part

MAX_REASON_CHARACTERS = 1000
"""A pod's termination message holds 4096 bytes."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The best epoch (0 in a process that only takes part in a phase), and the last line of results.

    `found` is empty where another process publishes the phase.
    """

    best_epoch: int
    found: str


def train(
    config: Annotated[str, typer.Argument(help="A shipped configuration (quick, ...) or a YAML file.")],
    out: Annotated[str, typer.Option(help="Run directory, any fsspec URL. Default: build/runs/NAME-TIME.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    phase: Annotated[
        list[str] | None, typer.Option(help="Run only this phase: feedback, reward_model, ...; may be repeated.")
    ] = None,
    epoch: Annotated[int | None, typer.Option(help="The epoch of --phase (from 1).")] = None,
    set_: Settings = None,
    shard: Annotated[
        str,
        typer.Option(
            help="I/N: run shard I of feedback, rollouts, pairs or evaluation; the last shard merges all. all/N: merge"
            " those of the first --phase that has shards."
        ),
    ] = "",
    node: Annotated[str, typer.Option(help="I/N: run the phase policy as node I.")] = "",
    meet: Annotated[str, typer.Option(help="HOST:PORT of node 0, where the nodes rendezvous.")] = "",
    address: Annotated[str, typer.Option(help="Name under which the other nodes reach this one.")] = "",
    gates: Annotated[
        str, typer.Option(help="YAML file of the gates that a model trained on a log must pass to become a candidate.")
    ] = "",
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait while another process holds the run directory.")
    ] = 0.0,
    outcome: OutcomeFile = "",
) -> None:
    """Train a policy by iterative reward-preference optimisation.

    Raises:
        ConfigError: if options contradict each other.
    """
    from trainers.config import load_config, load_gates
    from trainers.optimisation.sharding import part_of

    if phase and epoch is None:
        raise ConfigError("--epoch", None, "--phase needs the epoch it belongs to, as in --epoch 1")
    if resume and not out:
        raise ConfigError("--out", "", "--resume needs the run directory to resume")
    settings = load_config(config, set_ or [])
    gate_settings = load_gates(gates) if gates else None
    if gate_settings and settings.feedback.source != "lake":
        raise ConfigError("--gates", gates, "gates read the base model's log: set feedback.source to lake")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    url = out or str(Path("build/runs") / f"{settings.name}-{stamp}")
    part = part_of(shard, node, meet, address)
    result = run_training(settings, url, resume=resume, only=phase or (), epoch=epoch, part=part, wait_s=wait)
    values: dict[str, object] = {"found": result.found} if result.found else {}
    if not phase:
        typer.echo(f"run directory: {url}\nbest epoch: {result.best_epoch}")
        values["best_epoch"] = result.best_epoch
        if result.best_epoch > 0:
            values |= register_result(url, gate_settings)
    if outcome:
        Path(outcome).write_text(json.dumps(values), encoding="utf-8")


def register_result(url: str, gates: GateSettings | None) -> dict[str, object]:
    """Register the run's best epoch, print its entry, and return it as values for the outcome file."""
    from cli.evaluate import open_session
    from trainers.gates.decision import Decision
    from trainers.retraining.release import register_best, registry_of

    entry = register_best(open_session(url, []), gates, Console(stderr=True).print)
    typer.echo(f"registered: {entry.version} in {registry_of(url).url}, {entry.status}")
    values: dict[str, object] = {
        "model_version": entry.version,
        "model_digest": entry.digest,
        "model_status": entry.status,
    }
    if gates:
        values["refused_by"] = "; ".join(Decision.from_dict(entry.gates).reasons)[:MAX_REASON_CHARACTERS]
    return values


def run_training(
    config: RunConfig,
    url: str,
    *,
    resume: bool = False,
    only: Collection[str] = (),
    epoch: int | None = None,
    fresh: bool = False,
    part: Part | None = None,
    wait_s: float = 0.0,
) -> TrainingResult:
    """Train with progress in the terminal; `fresh` first removes a local run directory at `url`."""
    from trainers.artifacts.run_directory import RunDirectory
    from trainers.config import dump_config
    from trainers.irpo.loop import take_part
    from trainers.irpo.loop import train as irpo
    from trainers.irpo.session import Progress as Callbacks
    from trainers.irpo.session import Session
    from trainers.optimisation.sharding import ALONE

    console = Console(stderr=True)
    if fresh:
        shutil.rmtree(url, ignore_errors=True)
    run = RunDirectory(url, wait_s=wait_s)
    run.create(dump_config(config), resume=resume)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    last_found = ""
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None, note="")

        def describe(text: str) -> None:
            progress.update(task, description=text, total=None, note="")

        def step(done: int, total: int, loss: float) -> None:
            progress.update(task, completed=done, total=total, note=f"step {done}/{total}, loss {loss:.3f}")

        def begin(name: str, number: int) -> None:
            progress.reset(task, total=None, description=f"epoch {number} {name}", note="")

        def end(name: str, number: int, found: str, seconds: float) -> None:
            nonlocal last_found
            console.print(f"epoch {number} {name:<13} {seconds:6.1f} s  {found}", highlight=False, soft_wrap=True)
            last_found = found

        session = Session(config, run, Callbacks(describe, step, begin, end), part or ALONE)
        if session.part.leads:
            best = irpo(session, only, epoch)
        else:
            best = 0
            if not take_part(session, only, epoch):
                last_found = ""
    return TrainingResult(best, last_found)
