"""`make bench-training`: preference pairs a second of one epoch's optimisation, beside TRL's on the same pairs.

Both sides run through `trainers.optimisation.worker`: ours packs a prompt with all its answers, TRL's DPOTrainer
encodes every pair by itself (`shared_prefix: false`). Each setting is measured in a process of its own, so that its
peak memory is its own; the two sides of a setting run one after the other. `ideal_ratio` is how many times fewer tokens
packing encodes. That both have the same gradients is a test (`tests/trainers/test_group_dpo.py`).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.figures import machine_name, write_figures

ANSWER = 48
"""Tokens of an answer."""
CONTEXTS = 4
"""Contexts of a step."""
WARM_STEPS = 1
"""Steps that are not counted: the first one allocates."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: the model, tokens of the prompt for each of an answer, losers of each winner; packed, or TRL's pairs."""

    model: str
    ratio: int
    losers: int
    packed: bool = True
    steps: int = 4

    @property
    def ideal_ratio(self) -> float:
        """How many times more tokens the pairs hold than the packed groups."""
        prompt = self.ratio * ANSWER
        return 2 * self.losers * (prompt + ANSWER) / (prompt + (self.losers + 1) * ANSWER)


def main(
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("build/bench/training.json"),
    model: Annotated[list[str] | None, typer.Option(help="Models. Default: tiny and smollm2-135m.")] = None,
    steps: Annotated[int, typer.Option(help="Steps that are counted.", min=1)] = 3,
    cell: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Measure every setting on both sides; print a table."""
    if cell:
        typer.echo(json.dumps(measure(Setting(**json.loads(cell)))))
        return
    settings = [Setting(m, r, k, steps=steps + WARM_STEPS) for m, r, k in cells(model or ["tiny", "smollm2-135m"])]
    rows: list[dict[str, Any]] = []
    table = Table(
        "model", "prompt : answer", "losers", "pairs/s ours", "pairs/s TRL", "times", "ideal", "MiB ours", "TRL"
    )
    for setting in settings:
        ours, plain = in_process(setting), in_process(replace(setting, packed=False))
        rows.append(
            {
                "model": setting.model,
                "ratio": setting.ratio,
                "losers": setting.losers,
                "pairs_per_s_ours": ours["pairs_per_s"],
                "pairs_per_s_trl": plain["pairs_per_s"],
                "peak_bytes_ours": ours["peak_bytes"],
                "peak_bytes_trl": plain["peak_bytes"],
                "ideal_ratio": setting.ideal_ratio,
            }
        )
        table.add_row(
            setting.model,
            f"{setting.ratio} : 1",
            str(setting.losers),
            *(f"{x['pairs_per_s']:.2f}" for x in (ours, plain)),
            f"{ours['pairs_per_s'] / plain['pairs_per_s']:.2f}",
            f"{setting.ideal_ratio:.2f}",
            *(f"{x['peak_bytes'] / 2**20:.0f}" for x in (ours, plain)),
        )
        typer.echo(json.dumps(rows[-1]), err=True)
    Console(width=120).print(table)
    write_figures(out, {"machine": machine_name(), "answer_tokens": ANSWER, "settings": rows})


def cells(models: list[str]) -> list[tuple[str, int, int]]:
    """Return model, ratio and losers of every row; the large model has the two that matter most."""
    grid = [(2, 4), (8, 1), (8, 4), (8, 8), (20, 4)]
    return [(m, r, k) for m in models for r, k in (grid if m == "tiny" else [(2, 4), (8, 4)])]


def in_process(setting: Setting) -> dict[str, float]:
    """Measure a setting in a new process."""
    command = [sys.executable, "-m", "benchmarks.trainers.training", "--cell", json.dumps(asdict(setting))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def measure(setting: Setting) -> dict[str, float]:
    """Optimise on random tokens and return pairs a second and the peak memory of this process in bytes."""
    from trainers.config import OptimisationConfig
    from trainers.optimisation.groups import TokenGroup, write_groups
    from trainers.optimisation.worker import OptimisationJob, optimise

    rng = np.random.default_rng(0)
    count = CONTEXTS * setting.steps

    def tokens(length: int) -> list[int]:
        return [int(i) for i in rng.integers(10, 1000, size=length)]

    def group() -> TokenGroup:
        answers = [tokens(ANSWER) for _ in range(setting.losers + 1)]
        nothing: list[list[Any]] = [[] for _ in answers]
        return TokenGroup(
            prompt_ids=tokens(setting.ratio * ANSWER),
            answers_ids=answers,
            decided=[[True] * ANSWER for _ in answers],
            rewards=[float(-k) for k in range(len(answers))],
            forbidden=[],
            openers=[],
            allowed=nothing,
            barred=nothing,
            closed=nothing,
            reference_logprobs=[-100.0] * len(answers),
        )

    times: list[float] = []
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_groups(folder / "groups.parquet", [group() for _ in range(count)])
        per_step = CONTEXTS if setting.packed else CONTEXTS * setting.losers
        config = OptimisationConfig(
            shared_prefix=setting.packed, batch=per_step, batch_per_process=per_step, learning_rate=1e-6
        )
        job = OptimisationJob(
            policy=setting.model,
            groups=str(folder / "groups.parquet"),
            out=str(folder / "out"),
            checkpoints=str(folder / "checkpoints"),
            config=config,
            seed=0,
        )
        optimise(job, lambda *_: times.append(time.perf_counter()))
    spent = times[-1] - times[WARM_STEPS - 1]
    pairs = (len(times) - WARM_STEPS) * CONTEXTS * setting.losers
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"pairs_per_s": pairs / spent, "peak_bytes": float(peak)}


if __name__ == "__main__":
    typer.run(main)
