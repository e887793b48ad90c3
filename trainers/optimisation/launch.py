"""Starts preference optimisation: in this process, or as several processes under torchrun with DeepSpeed inside."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

from mechanism.errors import AuctionError
from trainers.optimisation.worker import TRAJECTORY, OptimisationJob, Progress, optimise


def run_optimisation(job: OptimisationJob, progress: Progress) -> list[dict[str, float]]:
    """Runs the job to its end; returns the trajectory. Errors of launched processes come back as AuctionError."""
    if job.config.processes == 1 and job.config.zero_stage is None:
        return optimise(job, progress)
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "job.json"
        job.write(spec)
        _launch(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={job.config.processes}", "-m", "trainers.optimisation.worker", str(spec),
            ],
            progress,
        )  # fmt: skip
    trajectory: list[dict[str, float]] = json.loads((Path(job.out) / TRAJECTORY).read_text(encoding="utf-8"))
    return trajectory


def _launch(command: list[str], progress: Progress) -> None:
    """Runs a launcher, passing its JSON lines to `progress`; keeps the last other lines for the error."""
    last: deque[str] = deque(maxlen=30)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.startswith('{"step"'):
                figures = json.loads(line)
                progress(int(figures.pop("step")), int(figures.pop("steps")), figures)
            else:
                last.append(line.rstrip())
    if process.wait() != 0:
        shown = "\n".join(last)
        raise AuctionError(f"preference optimisation ended with status {process.returncode}; its last lines:\n{shown}")
