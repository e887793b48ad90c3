"""A process that cleans up after one cluster, even if the cluster's owner is killed.

`Processes` holds a pipe to it. When the pipe closes, because the cluster was stopped or its owner ended in any way, the
guard kills every program that carries the cluster's mark and removes its control groups and folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "LLM_AUCTION_CLUSTER"
"""Environment variable of every program of a cluster and of its children; the value is the cluster's folder."""
CGROUPS = Path("/sys/fs/cgroup")
TIMEOUT_S = 20.0


def members(folder: Path) -> Iterator[psutil.Process]:
    """Yield the running programs of the cluster in `folder`."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and process.pid != os.getpid():
                yield process


def sweep(folder: Path) -> None:
    """Kill the cluster's programs and remove its control groups and folder."""
    end = time.monotonic() + TIMEOUT_S
    # repeated until none is left, since a program may just have started another; a node's containers end with the first
    # process of their PID namespace, which is a member, and their mounts and network with the namespaces
    while (left := list(members(folder))) and time.monotonic() < end:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    for group in control_groups(folder):
        remove_groups(group, end)
    shutil.rmtree(folder, ignore_errors=True)


def control_groups(folder: Path) -> list[Path]:
    """Return the cluster's control groups: one in each hierarchy of version 1, or the one of version 2."""
    return [path for path in (*CGROUPS.glob(f"*/{folder.name}"), CGROUPS / folder.name) if path.is_dir()]


def remove_groups(top: Path, end: float) -> None:
    """Remove a control group and those in it, deepest first, retrying until the monotonic time `end`.

    A group cannot be removed until shortly after its last process has ended.
    """
    below = sorted((path for path in top.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
    for group in [*below, top]:
        while group.is_dir():
            try:
                group.rmdir()
            except OSError:
                if time.monotonic() > end:
                    return
                time.sleep(0.05)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(Path(sys.argv[1]))
