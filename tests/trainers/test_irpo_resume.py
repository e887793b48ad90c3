"""A run that is killed at any moment and resumed ends as an undisturbed one, and repeats no finished phase."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cli.train import run_training
from mechanism.errors import GuardError
from trainers.artifacts.publication import COMPLETE
from trainers.artifacts.sampled import read_sampled
from trainers.config import load_config
from trainers.optimisation.groups import read_rows

pytestmark = pytest.mark.timeout(900)  # the undisturbed run alone takes two minutes of a slow core
EPOCHS = (1, 2)
PHASES = ("feedback", "reward_model", "rollouts", "pairs", "policy")
CONFIG = """
name: small
base: {base}
epochs: 2
world: {{candidates: 4}}
feedback: {{contexts: 260, answers: 2}}
reward: {{passes: 3}}
rollout: {{contexts: 40, samples: 4}}
penalty: {{per_ad: 0.1, flood_after: 1, per_extra_ad: 0.2}}
preference: {{delta: 0.05, counterfactual_bids: 1}}
optimisation: {{learning_rate: 1.0e-3, batch: 8, batch_per_process: 8, warm_up: 0.0, checkpoint_steps: 2}}
guards: {{min_ads_per_answer: 0, max_kl_to_base: 1.0e+6, reward_hacking_drop: 1.0e+6}}
evaluation: {{validation: 40}}
"""
MOMENTS = (
    "config.yaml",
    "epoch-001/feedback.chunks/*/000001",
    "epoch-001/feedback",
    "epoch-001/pairs",
    "epoch-001/policy.checkpoints/checkpoint-2",
    "epoch-001/policy",
    "epoch-000/evaluation.json",
    "epoch-002/rollouts",
    "epoch-002/policy.checkpoints/checkpoint-4",
)
"""A run is killed as soon as one of these is there."""


@pytest.fixture(scope="module")
def config(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG.format(base=small_base))
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """(run directory, best epoch)"""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, run_training(load_config(str(config)), str(folder)).best_epoch


def start(config: Path, run: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from cli.main import app; app()", "train", str(config), "--out", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *options], env=environment, stderr=subprocess.PIPE, text=True)


def kill_at(process: subprocess.Popen[str], run: Path, moment: str, limit_s: float = 100.0) -> None:
    """SIGKILL as soon as a path of this pattern is in the run."""
    end = time.monotonic() + limit_s
    while not any(run.glob(moment)):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"{moment} never came: {process.communicate()[1][-2000:]}")
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process.stderr is not None
    process.stderr.close()


def finished(run: Path) -> dict[str, tuple[int, bytes]]:
    """When each finished phase was published, and its manifest."""
    manifests = [run / f"epoch-{e:03d}" / name / COMPLETE for e in EPOCHS for name in PHASES]
    evaluations = [run / f"epoch-{e:03d}" / "evaluation.json" for e in (0, *EPOCHS)]
    there = [p for p in (*manifests, *evaluations) if p.exists()]
    return {str(p.relative_to(run)): (p.stat().st_mtime_ns, p.read_bytes()) for p in there}


def assert_same_run(run: Path, other: Path) -> None:
    """The same answers, clicks, groups, losses, weights and figures, to the last bit."""
    assert len(finished(run)) == len(EPOCHS) * (len(PHASES) + 1) + 1
    for epoch in EPOCHS:
        one, two = run / f"epoch-{epoch:03d}", other / f"epoch-{epoch:03d}"
        for name in ("feedback", "rollouts"):
            assert read_sampled(one / name / "answers.parquet") == read_sampled(two / name / "answers.parquet"), name
        assert read_rows(one / "pairs" / "groups.parquet") == read_rows(two / "pairs" / "groups.parquet")
        for weights in ("reward_model/pctr.safetensors", "policy/model.safetensors"):
            assert (one / weights).read_bytes() == (two / weights).read_bytes(), f"{weights} of epoch {epoch}"
    for epoch in (0, *EPOCHS):
        file = Path(f"epoch-{epoch:03d}") / "evaluation.json"
        assert (run / file).read_bytes() == (other / file).read_bytes()
    hidden = [p.name for p in run.rglob(".*") if "writing" in p.name or "scratch" in p.name]
    assert hidden == []
    assert not list(run.glob("*/*.chunks"))


def test_a_run_killed_while_optimising_ends_as_an_undisturbed_one(
    config: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    expected, best = undisturbed
    run = tmp_path / "run"
    kill_at(start(config, run), run, "epoch-001/policy.checkpoints/checkpoint-2")
    before = finished(run)
    assert len(before) == 4
    assert run_training(load_config(str(config)), str(run), resume=True).best_epoch == best
    assert before.items() <= finished(run).items()
    assert_same_run(run, expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    config: Path, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    expected, best = undisturbed
    run = tmp_path / "run"
    for number, moment in enumerate(MOMENTS):
        before = finished(run)
        kill_at(start(config, run, *(["--resume"] if number else [])), run, moment)
        assert before.items() <= finished(run).items(), moment
    process = start(config, run, "--resume")
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    for noise in ("Warning", "WARNING", "Writing model shards", "Loading weights"):
        assert noise not in errors
    assert before.items() <= finished(run).items()
    assert run_training(load_config(str(config)), str(run), resume=True).best_epoch == best
    assert_same_run(run, expected)


def test_resuming_does_not_go_past_a_guard(config: Path, undisturbed: tuple[Path, int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    strict = load_config(str(config), ["guards.min_ads_per_answer=3", "epochs=1"])
    with pytest.raises(GuardError, match="guard collapse"):
        run_training(strict, str(run))
    with pytest.raises(GuardError, match="guard collapse"):
        run_training(load_config(str(config), ["guards.min_ads_per_answer=3"]), str(run), resume=True)
    assert not (run / "epoch-002").exists()
    # with the guard's limit raised it goes on, and loses nothing
    before = finished(run)
    assert run_training(load_config(str(config)), str(run), resume=True).best_epoch == undisturbed[1]
    assert before.items() <= finished(run).items()
    assert_same_run(run, undisturbed[0])


def test_one_phase_can_be_run_alone(config: Path, undisturbed: tuple[Path, int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = load_config(str(config))
    run_training(settings, str(run), only=["feedback"], epoch=1)
    assert list(finished(run)) == ["epoch-001/feedback/_complete.json"]
    name = "epoch-001/feedback/answers.parquet"
    assert read_sampled(run / name) == read_sampled(undisturbed[0] / name)


def test_answers_may_be_written_in_half_precision_and_are_learned_in_full(config: Path, tmp_path: Path) -> None:
    settings = ["sampling_precision=bfloat16", "epochs=1", "optimisation.precision=float32"]
    run_training(load_config(str(config), settings), str(tmp_path / "run"))
    epoch = tmp_path / "run" / "epoch-001"
    trajectory = json.loads((epoch / "policy" / "trajectory.json").read_text())
    # the reference is the start in the precision of the training, or the first margins would not be zero
    assert trajectory[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    weights = load_file(epoch / "policy" / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}
    rows = read_rows(epoch / "pairs" / "groups.parquet")
    assert any(not all(own) for row in rows for own in row["decided"])
