"""Adapters: trained apart from their base, merged without a change of what the model writes, saved alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from inference.adapter_files import base_of
from inference.adapters import AdapterSettings, add_adapter, has_adapter
from inference.models import load_model
from inference.policy import Policy
from mechanism.errors import PolicyError

from .conftest import byte_tokenizer, make_context, random_policy


@pytest.fixture
def base(tmp_path: Path) -> Path:
    policy = random_policy(byte_tokenizer(words=True))
    policy.model.lm_head = torch.nn.Linear(32, policy.model.config.vocab_size, bias=False)
    policy.save(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    policy = Policy.load(str(base))
    add_adapter(policy.model, AdapterSettings(rank=4, alpha=8, first_block=1), str(base))
    with torch.no_grad():
        for name, weights in policy.model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.2)
    policy.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        out: torch.Tensor = model(torch.tensor([[5, 9, 12, 40]])).logits
    return out


def test_an_adapter_is_saved_alone_and_names_its_base(base: Path, adapter: Path) -> None:
    assert base_of(adapter) == str(base)
    assert base_of(base) is None
    assert {f.name for f in adapter.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "policy.json"}
    assert not (adapter / "model.safetensors").exists()
    changed = json.loads((adapter / "adapter_config.json").read_text())
    assert changed["layers_to_transform"] == [1]


def test_merged_and_apart_it_writes_the_same(base: Path, adapter: Path) -> None:
    merged, apart = load_model(str(adapter)), load_model(str(adapter), merge=False)
    assert not has_adapter(merged.model)
    assert has_adapter(apart.model)
    assert torch.allclose(logits(merged.model), logits(apart.model), atol=1e-4)
    assert not torch.allclose(logits(merged.model), logits(load_model(str(base)).model), atol=1e-2)
    assert Policy.load(str(adapter)).generate([make_context()], 2, 0)


def test_a_merged_adapter_saves_as_a_whole_model(adapter: Path, tmp_path: Path) -> None:
    merged = Policy.load(str(adapter))
    merged.save(tmp_path / "whole")
    assert base_of(tmp_path / "whole") is None
    assert torch.allclose(logits(Policy.load(str(tmp_path / "whole")).model), logits(merged.model), atol=1e-5)


def test_only_the_adapter_is_trained(adapter: Path) -> None:
    model = load_model(str(adapter), merge=False).model
    trained = [name for name, weights in model.named_parameters() if weights.requires_grad]
    assert trained
    assert all("lora_" in name and ".layers.1." in name for name in trained)
    assert not [w for w in load_model(str(adapter)).model.parameters() if w.requires_grad]


def test_a_new_adapter_changes_nothing_yet(base: Path) -> None:
    model = load_model(str(base)).model
    before = logits(model)
    add_adapter(model, AdapterSettings(rank=2, alpha=4), str(base))
    assert torch.equal(logits(model), before)


def test_an_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    policy = random_policy(byte_tokenizer(words=False))
    policy.model.lm_head = torch.nn.Linear(32, policy.model.config.vocab_size, bias=False)
    policy.model.config.num_hidden_layers = 1
    policy.model.model.layers = policy.model.model.layers[:1]
    policy.save(tmp_path / "other")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "other")})
    )
    with pytest.raises((PolicyError, ValueError)):
        load_model(str(adapter))


@pytest.mark.parametrize("named", ["", None, 3])
def test_an_adapter_without_a_base_is_an_error(adapter: Path, named: object) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    with pytest.raises(PolicyError, match="name the base model"):
        base_of(adapter)
