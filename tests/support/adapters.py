"""Adapters without training: on the shipped model `tiny`, and mere files with digests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from inference.adapters import AdapterSettings, add_adapter
from inference.models import resolve
from inference.policy import Policy

SMALL = AdapterSettings(rank=4)


def random_adapter(folder: Path, seed: int, settings: AdapterSettings = SMALL) -> Path:
    """Write an adapter with random weights into a folder, and return it."""
    policy = Policy.load("tiny")
    add_adapter(policy.model, settings, resolve("tiny"))
    generator = torch.Generator().manual_seed(seed)
    for name, weights in policy.model.named_parameters():
        if "lora_B" in name:
            weights.data.copy_(torch.randn(weights.shape, generator=generator) * 0.3)
    policy.save(folder)
    return folder


def named_adapter(folder: Path, base: str) -> Path:
    """Write what looks like an adapter on a base; its weights are the folder's name."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(folder.name.encode())
    return folder
