"""`llm-auction train`: runs or resumes an IRPO run and shows what each phase found."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from trainers.config import RunConfig
    from trainers.optimisation.sharding import Part


LONGEST_REASON = 1000
"""Characters: a pod's last words have room for 4096 bytes."""


def train(
    config: Annotated[str, typer.Argument(help="A shipped configuration (quick, ...) or a YAML file.")],
    out: Annotated[str, typer.Option(help="Run directory, any fsspec URL. Default: build/runs/NAME-TIME.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    phase: Annotated[
        list[str] | None, typer.Option(help="Run this phase alone: feedback, reward_model, ...; may be given again.")
    ] = None,
    epoch: Annotated[int | None, typer.Option(help="The epoch of --phase (from 1).")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key.path=value.")] = None,
    shard: Annotated[str, typer.Option(help="I/N: of the phase rollouts, this shard; all/N: make them one.")] = "",
    node: Annotated[str, typer.Option(help="I/N: of the phase policy, this node.")] = "",
    meet: Annotated[str, typer.Option(help="HOST:PORT of node 0, where the nodes meet.")] = "",
    address: Annotated[str, typer.Option(help="Name under which the other nodes reach this one.")] = "",
    gates: Annotated[
        str, typer.Option(help="YAML file of gates that the result of a run on a log has to pass to be a candidate.")
    ] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a run that another process holds.")] = 0.0,
    outcome: Annotated[str, typer.Option(help="File for what was found, as JSON; /dev/termination-log in a pod.")] = "",
) -> None:
    """Train a policy by iterative reward-preference optimisation."""
    from mechanism.errors import ConfigError
    from trainers.config import load_config, load_gates
    from trainers.optimisation.sharding import part_of

    if phase and epoch is None:
        raise ConfigError("--epoch", None, "--phase needs the epoch it belongs to, as in --epoch 1")
    if resume and not out:
        raise ConfigError("--out", "", "--resume needs the run directory to go on with")
    settings = load_config(config, set_ or [])
    gate_settings = load_gates(gates) if gates else None
    if gate_settings and settings.feedback.source != "shards":
        raise ConfigError("--gates", gates, "gates read the log of the base: set feedback.source to shards")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    url = out or str(Path("build/runs") / f"{settings.name}-{stamp}")
    part = part_of(shard, node, meet, address)
    told: dict[str, object] = {}
    best = run_training(settings, url, resume=resume, only=phase or (), epoch=epoch, part=part, wait_s=wait, told=told)
    if phase:
        _tell(outcome, told)
        return
    typer.echo(f"run directory: {url}\nbest epoch: {best}")
    told["best_epoch"] = best
    if best > 0:
        from cli.evaluate import open_session
        from trainers.retraining.release import register_best, registry_of

        entry = register_best(open_session(url, []), gate_settings, Console(stderr=True).print)
        typer.echo(f"registered: {entry.version} in {registry_of(url).url}, {entry.status}")
        told |= {"model_version": entry.version, "model_digest": entry.digest, "model_status": entry.status}
        if gate_settings:
            from trainers.gates.decision import Decision

            told["refused_by"] = "; ".join(Decision.from_dict(entry.gates).reasons)[:LONGEST_REASON]
    _tell(outcome, told)


def _tell(outcome: str, told: dict[str, object]) -> None:
    """Writes what was found for whoever started this."""
    if outcome:
        Path(outcome).write_text(json.dumps(told), encoding="utf-8")


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
    told: dict[str, object] | None = None,
) -> int:
    """Trains with progress on the terminal; returns the best epoch (0 of a process that only takes part).

    `fresh` removes what stands at a local `url`. `told` is given what the last phase found.
    """
    from trainers.artifacts.run_directory import RunDirectory
    from trainers.config import dump_config
    from trainers.irpo.loop import take_part
    from trainers.irpo.loop import train as irpo
    from trainers.irpo.session import Session
    from trainers.optimisation.sharding import ALONE

    console = Console(stderr=True)
    if fresh:
        shutil.rmtree(url, ignore_errors=True)
    run = RunDirectory(url, wait_s=wait_s)
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
            if told is not None:
                told["found"] = found

        session = Session(config, run, say, step, part or ALONE)
        if not session.part.leads:
            take_part(session, begin, report, only, epoch)
            return 0
        best = irpo(session, begin, report, only, epoch)
    return best
