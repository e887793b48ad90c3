"""One process, several, and every ZeRO stage train alike, save whole models, and go on from checkpoints."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.policy import Policy
from mechanism.errors import AuctionError, ConfigError, GuardError
from tests.trainers.test_group_dpo import job_of, quiet, random_groups, weights
from trainers.optimisation.launch import run_optimisation
from trainers.optimisation.sharding import Part
from trainers.optimisation.worker import COMPLETE, OptimisationJob, main

SETTINGS: dict[str, Any] = {"passes": 2}
CONTEXTS = 16


class Interrupted(Exception):
    """Stands for a kill."""


def interrupt_at(step: int) -> Any:
    """A progress callback that ends the run there."""

    def progress(now: int, steps: int, figures: dict[str, float]) -> None:
        if now >= step:
            raise Interrupted

    return progress


@pytest.fixture(autouse=True)
def _no_compiled_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fails a test in which something was compiled."""
    folder = tmp_path / "extensions"
    folder.mkdir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
    yield
    assert list(folder.iterdir()) == []


def assert_equal_training(job: OptimisationJob, reference: OptimisationJob, base: Path) -> None:
    """Weights agree to a small part of how far they moved, and the saved folder is a whole policy."""
    start = Policy.load(str(base)).model.state_dict()
    expected = Policy.load(reference.out).model.state_dict()
    policy = Policy.load(job.out)
    found = policy.model.state_dict()
    assert set(found) == set(start)
    moved = max(float((expected[k] - start[k]).abs().max()) for k in start)
    apart = max(float((found[k] - expected[k]).abs().max()) for k in start)
    assert moved > 1e-3
    assert apart < 1e-3 * moved
    names = {p.name for p in Path(job.out).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "policy.json", "trajectory.json"} <= names
    assert "training_args.bin" not in names
    original = Policy.load(str(base))
    assert policy.sampling == original.sampling
    assert policy.prompt_settings == original.prompt_settings
    assert policy.tokenizer.chat_template == original.tokenizer.chat_template


@contextmanager
def joined(job: OptimisationJob, nodes: int) -> Iterator[Part]:
    """The part of the first node, while the others are at work, each with a torchrun of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    parts = [Part(nodes=nodes, node=n, meeting=meeting, address=f"127.0.0.{n + 1}") for n in range(nodes)]
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(run_optimisation, replace(job, out=f"{job.out}-{p.node}"), quiet, p) for p in parts[1:]]
        yield parts[0]
        assert [other.result() for other in others] == [[] for _ in others]


def compare(base: Path, folder: Path, nodes: int = 1, **settings: Any) -> None:
    """Trains in this process and as `settings` say, on `nodes` nodes; the results must agree."""
    groups = random_groups(base, CONTEXTS, 3)
    reference = job_of(base, folder, "reference", groups, **SETTINGS)
    expected = run_optimisation(reference, quiet)
    job = job_of(base, folder, "other", groups, **SETTINGS, **settings)
    steps: list[tuple[int, int]] = []
    with joined(job, nodes) as first:
        trajectory = run_optimisation(job, lambda step, total, figures: steps.append((step, total)), first)
    assert steps == [(n, 8) for n in range(1, 9)]
    for key, first in (("loss", 0), ("rewards/margins", 0), ("rewards/accuracies", 2)):
        wanted = [t[key] for t in expected[first:]]
        assert [t[key] for t in trajectory[first:]] == pytest.approx(wanted, rel=1e-3, abs=1e-4), key
    assert_equal_training(job, reference, base)


def test_two_processes_train_as_one(small_base: Path, tmp_path: Path) -> None:
    compare(small_base, tmp_path, processes=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_zero_stage_trains_as_one_process(small_base: Path, tmp_path: Path, stage: int) -> None:
    compare(small_base, tmp_path, processes=2, zero_stage=stage)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stage", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_two_nodes_train_as_one_process(small_base: Path, tmp_path: Path, stage: int) -> None:
    compare(small_base, tmp_path, nodes=2, processes=2, zero_stage=stage)


def test_rank_zero_anywhere_but_on_the_first_node_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(AuctionError, match="rank 0 is not on the first node"):
        main("unread.json", first=False)


def test_processes_that_nodes_cannot_share_are_refused(small_base: Path, tmp_path: Path) -> None:
    job = job_of(small_base, tmp_path, "odd", random_groups(small_base, 4, 1), processes=1, zero_stage=1)
    with pytest.raises(ConfigError, match="a multiple of the 2 nodes"):
        run_optimisation(job, quiet, Part(nodes=2, meeting="127.0.0.1:1", address="127.0.0.1"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_process_under_deepspeed_trains_as_without(small_base: Path, tmp_path: Path) -> None:
    compare(small_base, tmp_path, processes=1, zero_stage=2)


def interrupted_and_resumed(base: Path, folder: Path, **settings: Any) -> tuple[OptimisationJob, OptimisationJob]:
    """(an undisturbed job, an equal one that was stopped at step 6 and went on from the checkpoint at step 4)."""
    groups = random_groups(base, CONTEXTS, 3)
    whole = job_of(base, folder, "whole", groups, **SETTINGS, **settings, checkpoint_steps=2)
    expected = run_optimisation(whole, quiet)
    cut = job_of(base, folder, "cut", groups, **SETTINGS, **settings, checkpoint_steps=2)
    with pytest.raises(Interrupted):
        run_optimisation(cut, interrupt_at(6))
    checkpoints = Path(cut.checkpoints)
    marked = [c for c in checkpoints.iterdir() if (c / COMPLETE).exists()]
    assert [c.name for c in marked] == ["checkpoint-4"]
    # what a kill in the middle of saving leaves
    (checkpoints / "checkpoint-6").mkdir(exist_ok=True)
    (checkpoints / "checkpoint-6" / "trainer_state.json").write_text('{"epoch": ')
    steps: list[int] = []
    trajectory = run_optimisation(cut, lambda step, total, figures: steps.append(step))
    assert steps == [5, 6, 7, 8]
    assert [t["loss"] for t in trajectory] == pytest.approx([t["loss"] for t in expected], abs=1e-6)
    assert [t["step"] for t in trajectory] == [float(n) for n in range(1, 9)]
    return whole, cut


def test_a_stopped_job_goes_on_from_its_checkpoint_to_the_same_end(small_base: Path, tmp_path: Path) -> None:
    whole, cut = interrupted_and_resumed(small_base, tmp_path)
    expected, found = weights(whole.out), weights(cut.out)
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("stage", [None, 2, 3])
def test_a_stopped_launch_goes_on_from_its_checkpoint(small_base: Path, tmp_path: Path, stage: int | None) -> None:
    whole, cut = interrupted_and_resumed(small_base, tmp_path, processes=2, zero_stage=stage)
    assert_equal_training(cut, whole, small_base)


@pytest.mark.slow
def test_errors_of_a_launched_process_come_back(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 4, 1)
    broken = [replace(g, reference_logprobs=[float("nan"), *g.reference_logprobs[1:]]) for g in groups]
    with pytest.raises(GuardError, match=r"guard nan: .*lower optimisation\.learning_rate \(step=0\)$"):
        run_optimisation(job_of(small_base, tmp_path, "nan", broken, processes=2), quiet)
    job = job_of(small_base, tmp_path, "missing", groups, processes=2)
    Path(job.groups).unlink()
    with pytest.raises(AuctionError, match=r"groups\.parquet"):
        run_optimisation(job, quiet)
