"""Preference optimisation of adapters: the base stays as it is, the result is the adapter alone, and it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inference.adapter_files import ADAPTER_WEIGHTS, base_of
from inference.policy import Policy
from mechanism.errors import InputError
from tests.trainers.test_group_dpo import job_of, quiet, random_groups, weights
from trainers.artifacts.registry import Registry
from trainers.optimisation.groups import TokenGroup
from trainers.optimisation.launch import run_optimisation


@pytest.fixture
def groups(small_base: Path) -> list[TokenGroup]:
    return random_groups(small_base, 16, 2)


def adapter_of(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / ADAPTER_WEIGHTS)


def test_a_new_adapter_learns_and_the_base_stays(small_base: Path, tmp_path: Path, groups: list[TokenGroup]) -> None:
    before = weights(small_base)
    job = job_of(small_base, tmp_path, "adapter", groups, passes=3, beta=0.3, learning_rate=5e-3, lora_rank=4)
    trajectory = run_optimisation(job, quiet)
    assert trajectory[-1]["loss"] < trajectory[0]["loss"]
    assert base_of(Path(job.out)) == str(small_base)
    names = {file.name for file in Path(job.out).iterdir()}
    assert {"adapter_config.json", ADAPTER_WEIGHTS, "policy.json", "trajectory.json"} <= names
    assert not {"model.safetensors", "config.json"} & names
    assert all(torch.equal(value, before[name]) for name, value in weights(small_base).items())
    trained = Policy.load(job.out).model.state_dict()
    moved = [
        name
        for name, value in Policy.load(str(small_base)).model.state_dict().items()
        if not torch.equal(value, trained[name])
    ]
    assert moved
    assert all("proj" in name for name in moved)


def test_an_adapter_is_trained_further(small_base: Path, tmp_path: Path, groups: list[TokenGroup]) -> None:
    first = job_of(small_base, tmp_path, "first", groups, learning_rate=5e-3, lora_rank=4)
    run_optimisation(first, quiet)
    # a base that is an adapter has its adapter trained, whatever `lora_rank` is
    second = job_of(Path(first.out), tmp_path, "second", groups, learning_rate=5e-3)
    run_optimisation(second, quiet)
    assert base_of(Path(second.out)) == str(small_base)
    earlier, later = adapter_of(first.out), adapter_of(second.out)
    assert earlier.keys() == later.keys()
    assert any(not torch.equal(earlier[name], later[name]) for name in earlier)


def test_an_adapter_is_registered_by_its_own_digest(small_base: Path, tmp_path: Path, groups: list[TokenGroup]) -> None:
    job = job_of(small_base, tmp_path, "adapter", groups, lora_rank=2)
    run_optimisation(job, quiet)
    registry = Registry(str(tmp_path / "registry"))
    entry = registry.register(job.out, base=str(small_base))
    assert entry.sha256.keys() == {ADAPTER_WEIGHTS}
    fetched = Policy.load(str(registry.fetch(entry.version)))
    assert fetched.digest == Policy.load(job.out).digest
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="an adapter's"):
        registry.register(tmp_path / "empty", base="x")
