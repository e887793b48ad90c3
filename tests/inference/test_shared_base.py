"""Adapters on one base: each writes what it would write alone, whatever the others are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from inference.adapter_files import ADAPTER_CONFIG
from inference.adapters import AdapterSettings
from inference.policy import Policy
from inference.shared_base import SharedBase
from mechanism.errors import PolicyError
from mechanism.types import Context
from tests.support.adapters import random_adapter

QUESTION = Context("c", "Which shoes for a wet trail?", ())


def text(policy: Policy) -> str:
    return policy.generate([QUESTION], 1, 3, replace(policy.sampling, max_new_tokens=20))[0][0].answer.raw


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    other = AdapterSettings(rank=8, modules=("q_proj", "v_proj"), first_block=1)
    return {"a": random_adapter(tmp_path / "a", 1), "b": random_adapter(tmp_path / "b", 2, other)}


def test_every_adapter_and_the_base_write_as_if_they_were_alone(folders: dict[str, Path]) -> None:
    alone = {"": text(Policy.load("tiny"))} | {name: text(Policy.load(str(path))) for name, path in folders.items()}
    assert len(set(alone.values())) == 3
    base = Policy.load("tiny")
    shared = SharedBase(base)
    policies = {"": base} | {name: shared.policy(path, name) for name, path in folders.items()}
    for name in ("b", "a", "", "b", "a", ""):  # the one that was loaded last comes first
        shared.activate(name)
        assert text(policies[name]) == alone[name], name
    assert all(policy.model is base.model for policy in policies.values())
    assert not any(weights.requires_grad for weights in base.model.parameters())


def test_an_adapter_can_be_dropped_and_loaded_again(folders: dict[str, Path]) -> None:
    base = Policy.load("tiny")
    shared = SharedBase(base)
    parameters = sum(weights.numel() for weights in base.model.parameters())
    policy = shared.policy(folders["a"], "a")
    shared.policy(folders["b"], "b")
    first = text_of(shared, "a", policy)
    shared.remove("a")
    shared.remove("b")
    assert shared.adapters == frozenset()
    assert sum(weights.numel() for weights in base.model.parameters()) == parameters
    assert text_of(shared, "a", shared.policy(folders["a"], "a")) == first


def text_of(shared: SharedBase, name: str, policy: Policy) -> str:
    shared.activate(name)
    return text(policy)


def test_an_adapter_of_another_model_leaves_the_others_as_they_are(folders: dict[str, Path]) -> None:
    shared = SharedBase(Policy.load("tiny"))
    policy = shared.policy(folders["a"], "a")
    before = text_of(shared, "a", policy)
    config = json.loads((folders["b"] / ADAPTER_CONFIG).read_text())
    (folders["b"] / ADAPTER_CONFIG).write_text(json.dumps({**config, "r": 2}))  # not the rank of its weights
    with pytest.raises(PolicyError, match="give the adapter's own base model"):
        shared.policy(folders["b"], "b")
    assert shared.adapters == {"a"}
    assert text_of(shared, "a", policy) == before
    with pytest.raises(PolicyError, match="loaded already"):
        shared.policy(folders["a"], "a")
