"""Starts preference optimisation: in this process, or as several processes under torchrun with DeepSpeed inside.

On several nodes each of them starts a torchrun of its own; they meet by c10d rendezvous at the first one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path

from mechanism.errors import AuctionError, ConfigError, DeviceMemoryError, GuardError
from trainers.optimisation.sharding import ALONE, Part
from trainers.optimisation.worker import (
    TRAJECTORY,
    OptimisationJob,
    Progress,
    drop_unfinished_checkpoints,
    optimise,
)

MEETING_S = 1200
"""How long nodes wait for each other: the first may wait for the run's lock of a dead predecessor."""


def run_optimisation(job: OptimisationJob, progress: Progress, part: Part = ALONE) -> list[dict[str, float]]:
    """Runs the job to its end; returns the trajectory (on the first node; on others it is empty).

    Errors of launched processes come back as AuctionError, GuardError or DeviceMemoryError.
    """
    if part.leads:
        drop_unfinished_checkpoints(Path(job.checkpoints))
    if job.config.processes == 1 and job.config.zero_stage is None:
        return optimise(job, progress)
    if job.config.processes % part.nodes:
        remedy = f"give a multiple of the {part.nodes} nodes"
        raise ConfigError("optimisation.processes", job.config.processes, remedy)
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "job.json"
        job.write(spec)
        _launch(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *meeting(part),
                f"--nproc-per-node={job.config.processes // part.nodes}",
                "-m",
                "trainers.optimisation.worker",
                str(spec),
                "--end-with-launcher",
                *([] if part.leads else ["--not-first"]),
            ],
            progress,
        )
    if not part.leads:
        return []
    trajectory: list[dict[str, float]] = json.loads((Path(job.out) / TRAJECTORY).read_text(encoding="utf-8"))
    return trajectory


def meeting(part: Part) -> list[str]:
    """torchrun's options for where the nodes meet. Its nodes are numbered in the order of their addresses' text; so
    that the first one, which publishes, also has rank 0, addresses must differ in the node's number alone."""
    if part.nodes == 1:
        return ["--standalone"]
    conf = f"is_host={int(part.node == 0)},read_timeout={MEETING_S},join_timeout={MEETING_S}"
    return [
        f"--nnodes={part.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={part.meeting}",
        f"--rdzv-id={part.meeting}",
        f"--rdzv-conf={conf}",
        f"--local-addr={part.address}",
    ]


def _launch(command: list[str], progress: Progress) -> None:
    """Runs a launcher, passing its JSON lines to `progress`; keeps the last other lines for the error.

    Raises the GuardError of a process whose guard fired, or DeviceMemoryError for one whose model did not fit.
    """
    last: deque[str] = deque(maxlen=60)
    fired: GuardError | DeviceMemoryError | None = None
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
            elif line.startswith('{"out_of_memory"'):
                fired = DeviceMemoryError(json.loads(line)["out_of_memory"])
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
