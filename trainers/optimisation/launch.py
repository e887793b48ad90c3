"""Start of preference optimisation: in this process, or as several processes under torchrun with DeepSpeed inside.

Each of several nodes starts its own torchrun; they find each other by c10d rendezvous at the first one.
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
    OnStep,
    OptimisationJob,
    drop_unfinished_checkpoints,
    optimise,
)

RENDEZVOUS_S = 1200
"""Seconds that nodes wait for each other: the first may wait for the run's lock of a dead predecessor."""


def run_optimisation(job: OptimisationJob, on_step: OnStep, part: Part = ALONE) -> list[dict[str, float]]:
    """Run the job to its end and return the trajectory (empty on all nodes but the first).

    Errors of launched processes come back as AuctionError, GuardError or DeviceMemoryError.

    Raises:
        ConfigError: if the processes cannot be divided among the nodes.
    """
    if part.leads:
        drop_unfinished_checkpoints(Path(job.checkpoints))
    if job.config.processes == 1 and job.config.zero_stage is None:
        return optimise(job, on_step)
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
                *rendezvous_options(part),
                f"--nproc-per-node={job.config.processes // part.nodes}",
                "-m",
                "trainers.optimisation.worker",
                str(spec),
                "--end-with-launcher",
                *([] if part.leads else ["--not-first"]),
            ],
            on_step,
        )
    if not part.leads:
        return []
    trajectory: list[dict[str, float]] = json.loads((Path(job.out) / TRAJECTORY).read_text(encoding="utf-8"))
    return trajectory


def rendezvous_options(part: Part) -> list[str]:
    """Return torchrun's options for the rendezvous of the nodes.

    torchrun numbers the nodes in the order of their addresses' text. Addresses must differ in the node's number alone,
    so that the first node, which publishes, has rank 0.
    """
    if part.nodes == 1:
        return ["--standalone"]
    conf = f"is_host={int(part.node == 0)},read_timeout={RENDEZVOUS_S},join_timeout={RENDEZVOUS_S}"
    return [
        f"--nnodes={part.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={part.meeting}",
        f"--rdzv-id={part.meeting}",
        f"--rdzv-conf={conf}",
        f"--local-addr={part.address}",
    ]


def _launch(command: list[str], on_step: OnStep) -> None:
    """Run a launcher, pass its JSON lines to `on_step`, and keep the last other lines for the error.

    A failed guard of a process comes back as its GuardError, a model that does not fit as DeviceMemoryError.

    Raises:
        AuctionError: if the launcher fails otherwise.
    """
    last: deque[str] = deque(maxlen=60)
    failure: GuardError | DeviceMemoryError | None = None
    in_launcher_traceback = False  # it follows a failure, is long and says nothing about the cause
    pipe = subprocess.PIPE
    # Standard input stays open until this process ends, however it ends; then the workers end as well.
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith('{"step"'):
                figures = json.loads(line)
                on_step(int(figures.pop("step")), int(figures.pop("steps")), figures)
            elif line.startswith('{"guard"'):
                failure = GuardError(**json.loads(line))
            elif line.startswith('{"out_of_memory"'):
                failure = DeviceMemoryError(json.loads(line)["out_of_memory"])
            elif "torch/distributed/elastic/" in line:
                in_launcher_traceback = True
            elif not in_launcher_traceback:
                last.append(line.rstrip())
        process.wait()
    finally:
        process.stdin.close()
        process.stdout.close()
        process.terminate()
        process.wait()
    if failure is not None:
        raise failure
    if process.returncode != 0:
        shown = "\n".join(last)
        raise AuctionError(f"preference optimisation ended with status {process.returncode}; its last lines:\n{shown}")
