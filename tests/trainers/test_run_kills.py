"""A training process is killed at every step and at random: what is visible is whole, and the next one goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainers.artifacts.run_directory import RunDirectory

WRITER = Path(__file__).with_name("killed_writer.py")


def test_a_forked_worker_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom trainers.artifacts.run_directory import RunDirectory\n"
        f"with RunDirectory({str(tmp_path)!r}).lock():\n"
        "    if os.fork() == 0:\n        print(os.getpid(), flush=True); time.sleep(60); os._exit(0)\n"
        "    time.sleep(60)\n"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None
    worker = int(trainer.stdout.readline())
    try:
        trainer.kill()
        trainer.wait()
        with RunDirectory(tmp_path).lock():
            os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)
        trainer.stdout.close()


@pytest.mark.parametrize("protocol", ["file", "shelf"])
def test_killed_before_any_step_on_the_file_system_a_phase_is_whole_or_absent(protocol: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(WRITER), "each", f"{protocol}://{tmp_path}/runs", str(tmp_path / "cache")],
        cwd=WRITER.parents[2],
        env={**os.environ, "PYTHONPATH": str(WRITER.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ends = [json.loads(line) for line in result.stdout.splitlines()]
    *killed, (last, *undisturbed) = ends
    assert (last, undisturbed) == (0, ["finished", 0, "finished", []])
    assert len(killed) >= 20
    for step, (end, seen, rerun, seen_after, left) in enumerate(killed, 1):
        state = (step, end, seen, rerun, seen_after, left, result.stderr)
        assert end == -signal.SIGKILL, state
        assert seen in ("nothing", "finished"), state
        assert (rerun, seen_after, left) == (0, "finished", []), state
    assert {"nothing", "finished"} == {seen for _, seen, *_ in killed}


def test_killed_at_random_moments_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    draw = random.Random(5)
    run = RunDirectory(tmp_path / "run")
    done: list[int] = []
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, str(WRITER), "loop", str(tmp_path / "run"), str(tmp_path / "cache")],
            env={**os.environ, "PYTHONPATH": str(WRITER.parents[2])},
            stdout=subprocess.PIPE,
        )
        assert writer.stdout is not None
        with writer.stdout:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(draw.uniform(0.0, 0.15))
            writer.kill()
            assert writer.wait() == -signal.SIGKILL
        before, done = done, run.epochs()
        assert done[: len(before)] == before
        assert done == list(range(1, len(done) + 1))
        for epoch in range(1, len(done) + 2):
            phase = run.phase("policy", epoch)
            if phase.finished():
                assert phase.verify() == ()
    assert done
