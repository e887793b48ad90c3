"""The last one out: clears away one cluster, in a process of its own.

`Processes` holds a pipe to it. When that closes, because the cluster was stopped or because its owner was killed at
any moment, the guard kills every program that carries the cluster's mark and removes what it left on the machine.
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
"""Environment variable of every program of a cluster, and of what those start: the cluster's folder."""
CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_S = 20.0


def members(folder: Path) -> Iterator[psutil.Process]:
    """The running programs of the cluster in `folder`."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(folder) and process.pid != os.getpid():
                yield process


def sweep(folder: Path) -> None:
    """Kills what belongs to the cluster and removes its control groups and its folder."""
    end = time.monotonic() + PATIENCE_S
    # Again until none is left: one may have been starting another. The containers of a node go with the first process
    # of their PID namespace, which is a member; their mounts and network go with the namespaces.
    while (left := list(members(folder))) and time.monotonic() < end:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    for group in control_groups(folder):
        remove_groups(group, end)
    shutil.rmtree(folder, ignore_errors=True)


def control_groups(folder: Path) -> list[Path]:
    """The cluster's control groups: one for every hierarchy of version 1, or the one of version 2."""
    return [path for path in (*CGROUPS.glob(f"*/{folder.name}"), CGROUPS / folder.name) if path.is_dir()]


def remove_groups(top: Path, end: float) -> None:
    """Removes a control group and those in it, deepest first. A group can be removed a moment after its last process
    has ended, so it is tried until the monotonic time `end`."""
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
