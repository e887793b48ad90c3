"""Starts preference optimisation: in this process, or as several processes under torchrun with DeepSpeed inside."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

from mechanism.errors import AuctionError, GuardError
from trainers.optimisation.worker import (
    TRAJECTORY,
    OptimisationJob,
    Progress,
    drop_unfinished_checkpoints,
    optimise,
)


def run_optimisation(job: OptimisationJob, progress: Progress) -> list[dict[str, float]]:
    """Runs the job to its end; returns the trajectory. Errors of launched processes come back as AuctionError."""
    drop_unfinished_checkpoints(Path(job.checkpoints))
    if job.config.processes == 1 and job.config.zero_stage is None:
        return optimise(job, progress)
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "job.json"
        job.write(spec)
        _launch(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={job.config.processes}", "-m", "trainers.optimisation.worker", str(spec),
                "--end-with-launcher",
            ],
            progress,
        )  # fmt: skip
    trajectory: list[dict[str, float]] = json.loads((Path(job.out) / TRAJECTORY).read_text(encoding="utf-8"))
    return trajectory


def _launch(command: list[str], progress: Progress) -> None:
    """Runs a launcher, passing its JSON lines to `progress`; keeps the last other lines for the error.

    Raises the GuardError of a process whose guard fired.
    """
    last: deque[str] = deque(maxlen=60)
    fired: GuardError | None = None
    launcher_speaks = False  # after a failure: its own traceback, long and of no use
    pipe = subprocess.PIPE
    # standard input stays open until this process ends, however it ends: the workers end with it
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith('{"step"'):
                figures = json.loads(line)
                progress(int(figures.pop("step")), int(figures.pop("steps")), figures)
            elif line.startswith('{"guard"'):
                fired = GuardError(**json.loads(line))
            elif "torch/distributed/elastic/" in line:
                launcher_speaks = True
            elif not launcher_speaks:
                last.append(line.rstrip())
        process.wait()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait()
    if fired is not None:
        raise fired
    if process.returncode != 0:
        shown = "\n".join(last)
        raise AuctionError(f"preference optimisation ended with status {process.returncode}; its last lines:\n{shown}")
