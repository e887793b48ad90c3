"""Runs of the learning benchmark: at once each in a process and a log of its own, and no failure is lost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.trainers.learning import OBJECTIVES, run_all
from trainers.config import load_config


@dataclass(frozen=True)
class Writes:
    """Writes the number of its process."""

    path: Path
    fails: bool = False

    def __call__(self) -> None:
        print("began")
        if self.fails:
            raise ValueError("no such run")
        self.path.write_text(str(os.getpid()))


def test_runs_at_once_have_processes_and_logs_of_their_own(tmp_path: Path) -> None:
    run_all({name: Writes(tmp_path / name) for name in ("one", "two", "three")}, 2, tmp_path / "logs")
    processes = {(tmp_path / name).read_text() for name in ("one", "two", "three")}
    assert len(processes) == 3
    assert str(os.getpid()) not in processes
    assert (tmp_path / "logs" / "two.log").read_text() == "began\n"


def test_one_at_a_time_they_run_here(tmp_path: Path) -> None:
    run_all({"one": Writes(tmp_path / "one")}, 1, tmp_path / "logs")
    assert (tmp_path / "one").read_text() == str(os.getpid())


def test_a_failed_run_fails_the_benchmark(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such run"):
        run_all({"one": Writes(tmp_path / "one", fails=True)}, 2, tmp_path / "logs")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_learned_rival_is_a_valid_configuration(name: str) -> None:
    assert load_config("quick", list(OBJECTIVES[name])).optimisation.objective != "preference"
