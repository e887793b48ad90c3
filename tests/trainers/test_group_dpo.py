"""The group loss is TRL's own DPO loss where groups are pairs, starts at ln 2, and stops on what is not a number."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inference.policy import Policy
from mechanism.errors import GuardError, InputError
from trainers.config import OptimisationConfig
from trainers.optimisation.groups import TokenGroup, read_rows, with_reference, with_sampling, write_groups
from trainers.optimisation.launch import run_optimisation
from trainers.optimisation.worker import OptimisationJob, arguments


def group_of(prompt: list[int], answers: list[list[int]], decided: list[list[bool]]) -> TokenGroup:
    """A group of answers that no constraint restricted; each is worth 10 points less than the one before."""
    none: list[list[Any]] = [[] for _ in answers]
    return TokenGroup(prompt, answers, decided, [-10.0 * k for k in range(len(answers))], [], [], none, none, none)


def random_groups(base: Path, count: int, most_losers: int, seed: int = 0) -> list[TokenGroup]:
    """Groups of random tokens with their log-probabilities under the base, in full precision."""
    policy, rng = Policy.load(str(base)), np.random.default_rng(seed)
    size = policy.model.config.vocab_size

    def tokens(low: int, high: int) -> list[int]:
        return [int(t) for t in rng.integers(5, size, size=rng.integers(low, high))]

    groups = []
    for _ in range(count):
        prompt, answers = tokens(3, 20), [tokens(2, 9) for _ in range(2 + rng.integers(most_losers))]
        groups.append(group_of(prompt, answers, [[True] * len(a) for a in answers]))
    return with_reference(policy, groups, precision="float32")


def job_of(base: Path, folder: Path, name: str, groups: list[TokenGroup], **settings: Any) -> OptimisationJob:
    """A job in float32 whose result goes to `folder/name`."""
    out = folder / name
    out.mkdir()
    write_groups(folder / "groups.parquet", groups)
    defaults: dict[str, Any] = {"learning_rate": 1e-3, "batch": 4, "batch_per_process": 2, "precision": "float32"}
    config = OptimisationConfig.model_validate({**defaults, **settings})
    return OptimisationJob(
        str(base), str(folder / "groups.parquet"), str(out), str(folder / f"{name}.checkpoints"), 3, config
    )


def quiet(step: int, steps: int, figures: dict[str, float]) -> None:
    """No progress."""


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def test_groups_of_one_loser_train_as_trl_trains_pairs(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 16, 1)
    grouped = job_of(small_base, tmp_path, "grouped", groups, passes=2, beta=0.3)
    paired = job_of(small_base, tmp_path, "paired", groups, passes=2, beta=0.3, shared_prefix=False)
    ours, theirs = run_optimisation(grouped, quiet), run_optimisation(paired, quiet)
    assert len(ours) == 8
    assert ours[-1]["loss"] < 0.6
    # the first step's rate is zero, so up to the second all margins are zero and their signs are rounding
    for key, first in (("loss", 0), ("grad_norm", 0), ("rewards/margins", 0), ("rewards/accuracies", 2)):
        expected_figures = [t[key] for t in theirs[first:]]
        assert [t[key] for t in ours[first:]] == pytest.approx(expected_figures, rel=2e-3, abs=2e-4), key
    start, after, expected = weights(small_base), weights(grouped.out), weights(paired.out)
    moved = max(float((after[k] - start[k]).abs().max()) for k in start)
    apart = max(float((after[k] - expected[k]).abs().max()) for k in start)
    assert moved > 1e-3
    assert apart < 0.02 * moved


def test_the_first_loss_is_ln_2_where_the_reference_is_the_start(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 8, 4)
    trajectory = run_optimisation(job_of(small_base, tmp_path, "out", groups, warm_up=0.0), quiet)
    assert trajectory[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert trajectory[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)


def test_micro_batches_do_not_change_the_training(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 12, 3)
    results = []
    for size in (1, 3, 4):
        job = job_of(small_base, tmp_path, f"by-{size}", groups, batch_per_process=size)
        assert arguments(job, 12).per_device_train_batch_size in (1, 2, 4)
        results.append(run_optimisation(job, quiet))
    for other in results[1:]:
        assert [t["loss"] for t in other] == pytest.approx([t["loss"] for t in results[0]], abs=1e-4)


def test_the_winner_is_learned_by_likelihood_where_that_is_weighted(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 8, 2)
    plain = run_optimisation(job_of(small_base, tmp_path, "plain", groups), quiet)
    job = job_of(small_base, tmp_path, "weighted", groups, sft_weight=0.5)
    weighted = run_optimisation(job, quiet)
    nll = np.mean([-g.reference_logprobs[0] / len(g.answers_ids[0]) for g in groups])
    extra = np.mean([t["loss"] for t in weighted[:1]]) - plain[0]["loss"]
    assert 0.5 * nll * 0.5 < extra < 0.5 * nll * 1.5
    policy = Policy.load(job.out)
    after = with_reference(policy, groups, precision="float32")
    assert np.mean([g.reference_logprobs[0] for g in after]) > np.mean([g.reference_logprobs[0] for g in groups])


def test_what_is_not_a_number_stops_the_run(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 4, 1)
    broken = [replace(g, reference_logprobs=[math.nan, *g.reference_logprobs[1:]]) for g in groups]
    with pytest.raises(GuardError, match=r"guard nan: .*lower optimisation\.learning_rate") as caught:
        run_optimisation(job_of(small_base, tmp_path, "out", broken), quiet)
    assert caught.value.evidence == {"step": 0}


def test_tokens_that_the_policy_did_not_decide_are_not_trained(small_base: Path, tmp_path: Path) -> None:
    policy = Policy.load(str(small_base))
    answers = [[50, 60, 70, 80], [50, 61, 71, 80]]
    # all that the answers differ in is not the policy's doing
    same = group_of([5, 6, 7], answers, [[True, False, False, False]] * 2)
    groups = with_reference(policy, [same] * 4, precision="float32")
    assert groups[0].reference_logprobs[0] == pytest.approx(groups[0].reference_logprobs[1], abs=1e-4)
    job = job_of(small_base, tmp_path, "out", groups, warm_up=0.0)
    trajectory = run_optimisation(job, quiet)
    assert trajectory[-1]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert trajectory[-1]["grad_norm"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "settings", [{"loss": "margin"}, {"objective": "winners"}, {"objective": "rloo", "clip": 0.9}], ids=str
)
def test_every_method_makes_the_winners_likelier_than_the_others(
    small_base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    start = Policy.load(str(small_base))
    groups = with_sampling(start, random_groups(small_base, 8, 2), precision="float32")
    job = job_of(small_base, tmp_path, "out", groups, passes=3, **settings)
    trajectory = run_optimisation(job, quiet)
    assert trajectory[-1]["loss"] < trajectory[0]["loss"]
    after = with_reference(Policy.load(job.out), groups, precision="float32")

    def lead(some: list[TokenGroup]) -> float:
        return float(np.mean([g.reference_logprobs[0] - np.mean(g.reference_logprobs[1:]) for g in some]))

    assert lead(after) > lead(groups) + 0.1


def test_rloo_needs_the_sampling_policy(small_base: Path, tmp_path: Path) -> None:
    job = job_of(small_base, tmp_path, "out", random_groups(small_base, 4, 1), objective="rloo")
    with pytest.raises(InputError, match=r"repeat the phase pairs with optimisation\.objective rloo"):
        run_optimisation(job, quiet)


def test_groups_and_jobs_read_back_as_written(small_base: Path, tmp_path: Path) -> None:
    groups = random_groups(small_base, 3, 3)
    job = job_of(small_base, tmp_path, "out", groups, zero_stage=2, processes=2)
    job.write(tmp_path / "job.json")
    assert OptimisationJob.read(tmp_path / "job.json") == job
    rows = read_rows(Path(job.groups))
    assert [TokenGroup(**row) for row in rows] == groups
    assert json.loads((tmp_path / "job.json").read_text())["config"]["zero_stage"] == 2
