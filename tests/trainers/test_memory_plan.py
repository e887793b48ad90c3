"""The memory plan: parameters counted exactly, activations as a real block keeps them, and what ZeRO divides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config
from typer.testing import CliRunner

from cli.main import app
from mechanism.errors import ConfigError
from trainers.config import load_config
from trainers.optimisation.memory_plan import Load, Shape, load_of, plan, shape_of
from trainers.optimisation.packing import pack, token_logprobs

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 320,
    "vocab_size": 512,
    "tie_word_embeddings": True,
}


def kept_bytes(blocks: int, load: Load, *, checkpointed: bool) -> int:
    """Bytes that a Qwen3 of so many blocks keeps for the backward pass, apart from its weights."""
    model: Any = AutoModelForCausalLM.from_config(Qwen3Config(num_hidden_layers=blocks, **SIZES), dtype=torch.bfloat16)
    model.train()
    if checkpointed:
        model.activation_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    packed = pack([[1] * load.prompt_tokens] * load.prompts, [[[2] * load.answer_tokens] * load.answers] * load.prompts)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(model, packed)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def small_shape(folder: Path) -> Shape:
    file = folder / "config.json"
    file.write_text(json.dumps({"model_type": "qwen3", "num_hidden_layers": 2, **SIZES}))
    return shape_of("anything", file)


@pytest.mark.parametrize("load", [Load(1, 300, 4, 40), Load(2, 100, 6, 30)])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_activations_grow_with_the_blocks_as_in_a_real_model(tmp_path: Path, load: Load, *, checkpointed: bool) -> None:
    per_block = kept_bytes(3, load, checkpointed=checkpointed) - kept_bytes(2, load, checkpointed=checkpointed)
    shape = small_shape(tmp_path)
    if checkpointed:
        planned = load.tokens * shape.hidden * 2.0
    else:
        columns = load.prompt_tokens + load.answer_tokens + 1
        repeated = 4 * load.prompts * load.answers * columns * shape.queries
        planned = load.tokens * shape.block_token_bytes + repeated
    assert planned == pytest.approx(per_block, rel=0.1)


def test_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_config(Qwen3Config(num_hidden_layers=2, **SIZES))
    assert small_shape(tmp_path).parameters == sum(p.numel() for p in model.parameters())


def test_qwen3_4b_has_the_published_size_and_fits_as_shipped_on_one_gpu_and_on_eight() -> None:
    shape = shape_of("Qwen/Qwen3-4B-Instruct-2507")
    assert shape.parameters == pytest.approx(4.0e9, rel=0.02)  # its model card: 4.0 billion
    eight = load_config("qwen3-4b")
    one = load_config("qwen3-4b", ["optimisation.processes=1", "optimisation.lora_rank=16"])
    full = load_config("qwen3-4b", ["optimisation.processes=1"])
    room = 80e9 / 2**30
    assert all(need.total < room for need in plan(eight, shape, load_of(eight, None)))
    assert all(need.total < room for need in plan(one, shape, load_of(one, None)))
    # 16 bytes a parameter and the activations: more than an adapter needs by far.
    assert plan(full, shape, load_of(full, None))[1].total > 60


@pytest.mark.parametrize(
    ("stage", "divided"),
    [(0, set()), (1, {"optimiser"}), (2, {"optimiser", "gradients"}), (3, {"optimiser", "gradients", "weights"})],
)
def test_each_stage_divides_what_its_paper_says(stage: int, divided: set[str]) -> None:
    shape = shape_of("Qwen/Qwen3-4B-Instruct-2507")
    four, eight = (
        load_config("qwen3-4b", [f"optimisation.zero_stage={stage}", f"optimisation.processes={n}"]) for n in (4, 8)
    )
    load = Load(1, 4000, 5, 256)
    before, after = (plan(config, shape, load)[1].parts for config in (four, eight))
    for part in ("weights", "gradients", "optimiser"):
        assert after[part] * (2 if part in divided else 1) == pytest.approx(before[part])


def test_command_says_whether_it_fits(tmp_path: Path) -> None:
    runner = CliRunner()
    fits = runner.invoke(app, ["plan", "qwen3-4b", "--gpus", "8x80GB", "--json"])
    assert fits.exit_code == 0, fits.output
    assert json.loads(fits.stdout)["phases"]["policy"]["fits"]
    small = runner.invoke(app, ["plan", "qwen3-4b", "--gpus", "8x16GB"])
    assert small.exit_code == 1
    assert "too much" in small.stdout


def test_what_cannot_be_planned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--shape"):
        shape_of(str(tmp_path))
    runner = CliRunner()
    for gpus, remedy in (("eight", "8x80GB"), ("4x80GB", "give as many GPUs")):
        refused = runner.invoke(app, ["plan", "qwen3-4b", "--gpus", gpus])
        assert refused.exit_code == 2
        assert remedy in refused.output
