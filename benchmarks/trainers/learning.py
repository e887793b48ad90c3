"""`make bench-learning`: train a configuration and its learned rivals, compare all methods, over several seeds.

Every seed trains the run itself, the same rollouts under other objectives (best-of-M distillation and RLOO), and
optionally the oracle; the rivals without training are tuned and played by the evaluation. With several seeds the
figures are those over all seeds and queries. With several jobs the runs share the cores, each with a log of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.figures import write_figures

OWN_ANSWERS = (
    "preference.counterfactual_bids=0",
    "preference.edited=0",
    "preference.swaps=0",
    "preference.removals=0",
)
OBJECTIVES = {
    "best_of_m": ("optimisation.objective=winners",),
    # RLOO refuses answers that it did not write. Four passes give it no fewer optimiser steps than ours has.
    "rloo": ("optimisation.objective=rloo", *OWN_ANSWERS, "optimisation.passes=4"),
}
VARIANTS = {"llm_auction": (), **OBJECTIVES, "oracle": ("reward.source=oracle",)}
"""What each training of a seed sets beside the configuration."""


@dataclass(frozen=True, slots=True)
class Training:
    """One run to train: its configuration with overrides, its folder, and whether a stopped run goes on."""

    config: str
    settings: tuple[str, ...]
    run: Path
    resume: bool

    def __call__(self) -> None:
        """Train."""
        from cli.train import run_training
        from trainers.config import load_config

        run_training(load_config(self.config, self.settings), str(self.run), fresh=not self.resume, resume=self.resume)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The runs of one seed, ours first, to compare under some evaluation settings; the report goes to a folder."""

    runs: tuple[Path, ...]
    settings: tuple[str, ...]
    out: Path

    def __call__(self) -> None:
        """Evaluate and write the report."""
        from cli.evaluate import compared, open_session, publish

        publish(compared([open_session(str(run), list(self.settings)) for run in self.runs]), str(self.out))


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/learning.json"),
    config: Annotated[str, typer.Option(help="Configuration to train.")] = "quick",
    seeds: Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)] = 1,
    jobs: Annotated[int, typer.Option(help="Runs at once; they share the cores.", min=1)] = 1,
    learned_rivals: Annotated[bool, typer.Option(help="Also train best-of-M distillation and RLOO.")] = True,
    oracle: Annotated[bool, typer.Option(help="Also train on the true click probabilities.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a setting: key=value.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume earlier runs; keep finished reports.")] = False,
) -> None:
    """Train, evaluate on held-out queries, and write the reports and the figures."""
    variants = ["llm_auction", *(OBJECTIVES if learned_rivals else ()), *(["oracle"] if oracle else ())]
    figures = train_and_compare(out, config, seeds, jobs, variants, set_ or [], resume)
    write_figures(out, figures)
    seconds = ", ".join(f"{report['train_seconds']:.0f}" for report in figures["reports"])
    typer.echo(f"figures: {out}; training took {seconds} s")


def train_and_compare(
    out: Path, config: str, seeds: int, jobs: int, variants: Sequence[str], settings: Sequence[str], resume: bool
) -> dict[str, Any]:
    """Train the variants of every seed, compare all mechanisms, and return the reports and the figures over seeds.

    The runs lie in a folder beside `out`, see `runs_of`.
    """
    from inference.vector_store import STORE
    from trainers.evaluation.report import read_report
    from trainers.evaluation.seeds import merge, seeds_table

    folder = runs_of(out)
    # All runs ask and answer in the same world: what one of them has encoded, the others read.
    os.environ.setdefault(STORE, str(folder / "vectors.sqlite"))
    evaluation = tuple(s.removeprefix("evaluation.") for s in settings if s.startswith("evaluation."))
    trainings: dict[str, Callable[[], None]] = {}
    comparisons: dict[str, Callable[[], None]] = {}
    reports: list[Path] = []
    for seed in range(seeds):
        runs = {name: folder / f"seed-{seed}" / name for name in variants}
        for name, run in runs.items():
            own = (*settings, *VARIANTS[name], f"seed={seed}")
            trainings[f"seed-{seed}-{name}"] = Training(config, own, run, resume)
        reports.append(folder / f"seed-{seed}" / "report" / "report.json")
        if not (resume and reports[-1].is_file()):
            comparison = Comparison(tuple(runs.values()), evaluation, reports[-1].parent)
            comparisons[f"seed-{seed}-comparison"] = comparison
    for tasks in (trainings, comparisons):
        run_all(tasks, jobs, folder / "logs")
    read = [read_report(report) for report in reports]
    figures: dict[str, Any] = {"reports": [report.model_dump(mode="json") for report in read]}
    if seeds > 1:
        merged = merge(read)
        Console(width=max(140, Console().width)).print(seeds_table(merged))
        figures["over_seeds"] = merged.to_dict()
    return figures


def runs_of(out: Path) -> Path:
    """Return the folder of the runs behind a file of figures: `seed-N/VARIANT`, their reports and logs."""
    return out.parent / f"{out.stem}-runs"


def run_all(tasks: dict[str, Callable[[], None]], jobs: int, logs: Path) -> None:
    """Run named tasks, one after the other in this process, or several at once with a log of each."""
    if jobs == 1:
        for name, task in tasks.items():
            typer.echo(name)
            task()
        return
    logs.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, max_tasks_per_child=1) as pool:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        running = {pool.submit(_logged, task, logs / f"{name}.log", threads): name for name, task in tasks.items()}
        for done, future in enumerate(as_completed(running), 1):
            if future.exception() is not None:
                # Those that have not begun would go on for hours.
                for other in running:
                    other.cancel()
            future.result()
            typer.echo(f"{running[future]} is done, {done} of {len(running)}; logs: {logs}")


def _logged(task: Callable[[], None], log: Path, threads: int) -> None:
    """Run a task in a process of its own, with its output in a file."""
    import torch

    torch.set_num_threads(threads)
    with (
        log.open("w", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        task()


if __name__ == "__main__":
    typer.run(main)
