"""The loop on one machine: a real router, real workers, simulated users; stopped and started again without a loss."""

from __future__ import annotations

import io
import socket
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from cli.local.loop import Loop, Places, first_version, registered, retraining_program, serving_programs
from cli.local.table import loop_table
from serving.canary.deployment import Deployment
from serving.canary.guard import GuardSettings
from streaming.embedded import EmbeddedLog
from streaming.log import Partition
from streaming.shards import ShardReader
from streaming.topics import CLICKS, INTERACTIONS, PARTITIONS

WAIT_S = 300.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def count(log: EmbeddedLog, topic: str) -> int:
    return sum(log.end(Partition(topic, number)) for number in range(PARTITIONS))


def run(places: Places, deployment: Deployment, answers: int) -> str:
    """Runs the loop until the log and the shards have so many answers; the table as it then stood."""
    loop = Loop(places, deployment, GuardSettings(min_answers=10, min_early_answers=5))
    port = free_port()
    stop, end = threading.Event(), time.monotonic() + WAIT_S
    tables: list[str] = []

    def show(running: Loop) -> None:
        console = Console(file=io.StringIO(), width=200)
        console.print(loop_table(running, (), f"http://localhost:{port}"))
        tables.append(console.file.getvalue())  # type: ignore[attr-defined]
        totals = ShardReader(str(places.shards)).totals() if places.shards.is_dir() else None
        looked = "learned" in running.children.all["retrain"].tail(20)
        if (looked and totals is not None and totals.auctions >= answers) or time.monotonic() > end:
            stop.set()

    try:
        for program in (*serving_programs(places, port, 4.0), retraining_program(places)):
            loop.children.start(program)
        loop.run(stop, show)
        assert not [name for name, child in loop.children.all.items() if child.failures]
        # it has looked, and waits for enough of the log
        assert "more, or nothing can be learned" in loop.children.all["retrain"].tail(20)
    finally:
        loop.children.stop()
    return tables[-1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    places = Places(tmp_path / "serve", str(tmp_path / "runs"))
    deployment = Deployment(places.routes)
    registered("tiny", places.registry)
    registered("tiny", places.registry)  # once is enough
    deployment.start(first_version("tiny"), "test", "the first")
    table = run(places, deployment, 8)
    assert "tiny" in table
    assert "100%" in table
    log = EmbeddedLog(places.log)
    before = (count(log, INTERACTIONS), count(log, CLICKS), ShardReader(str(places.shards)).totals())
    assert before[0] >= 8
    run(places, deployment, before[2].auctions + 5)
    after = (count(log, INTERACTIONS), count(log, CLICKS), ShardReader(str(places.shards)).totals())
    assert after[0] >= before[0] + 5
    assert after[1] >= before[1]
    # every answer is in the shards once
    assert after[2].auctions <= after[0]
    assert after[2].repeated == 0
    assert (places.root / "users.json").is_file()
