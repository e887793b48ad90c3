"""The loop on one machine: a real router, real workers, simulated users; stopped and restarted without loss."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from cli.local.loop import (
    Loop,
    LoopPaths,
    base_version,
    profile_of,
    register_base,
    retraining_program,
    serving_programs,
)
from cli.local.table import loop_table
from mechanism.canary.limits import Limits
from serving.canary.guard import GuardSettings
from serving.canary.promotion_and_rollback import Deployment
from streaming.embedded import EmbeddedLog
from streaming.lake import TrainingSet
from streaming.log import Partition
from streaming.topics import CLICKS, INTERACTIONS, PARTITIONS
from tests.support.ports import free_ports

WAIT_S = 300.0


def count(log: EmbeddedLog, topic: str) -> int:
    return sum(log.end(Partition(topic, number)) for number in range(PARTITIONS))


def run(paths: LoopPaths, deployment: Deployment, answers: int) -> str:
    """Run the loop until the lake has this many answers; return its table at that time."""
    loop = Loop(paths, deployment, GuardSettings(Limits(min_answers=10), patience_answers=10))
    [port] = free_ports(1)
    profile = profile_of("tiny", 4.0)
    stop, end = threading.Event(), time.monotonic() + WAIT_S
    tables: list[str] = []

    def show(running: Loop) -> None:
        console = Console(file=io.StringIO(), width=200)
        console.print(loop_table(running, (), f"http://localhost:{port}"))
        tables.append(console.file.getvalue())  # type: ignore[attr-defined]
        totals = TrainingSet(str(paths.lake)).totals() if paths.lake.is_dir() else None
        checked = "learn from" in running.supervisor.children["retrain"].log_tail(20)
        if (checked and totals is not None and totals.judged >= answers) or time.monotonic() > end:
            stop.set()

    try:
        for program in (*serving_programs(paths, port, profile), retraining_program(paths, profile)):
            loop.supervisor.start(program)
        loop.run(stop, show)
        assert not [name for name, child in loop.supervisor.children.items() if child.failures]
        # it has checked the log, and waits for more of it
        assert "too few to learn from" in loop.supervisor.children["retrain"].log_tail(20)
    finally:
        loop.supervisor.stop()
    return tables[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stopped_loop_resumes(tmp_path: Path) -> None:
    paths = LoopPaths(tmp_path / "serve", str(tmp_path / "runs"))
    deployment = Deployment(paths.routes)
    register_base("tiny", paths.registry)
    register_base("tiny", paths.registry)  # once is enough
    deployment.start(base_version("tiny"), "test", "the first")
    table = run(paths, deployment, 8)
    assert "tiny" in table
    assert "100%" in table
    log = EmbeddedLog(paths.log)
    before = (count(log, INTERACTIONS), count(log, CLICKS), TrainingSet(str(paths.lake)).totals())
    assert before[0] >= 8
    run(paths, deployment, before[2].judged + 5)
    after = (count(log, INTERACTIONS), count(log, CLICKS), TrainingSet(str(paths.lake)).totals())
    assert after[0] >= before[0] + 5
    assert after[1] >= before[1]
    # every answer is in the lake once
    assert after[2].answers <= after[0]
    assert (paths.root / "users.json").is_file()
