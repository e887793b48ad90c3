"""Memory that a run's optimisation and sampling need on each GPU, before a GPU is rented.

Weights, gradients and optimiser states are counted exactly, from the model's own architecture without its weights.
Activations follow a formula for Llama and Qwen blocks whose coefficients were fitted to what a block keeps for its
backward pass (`tests/trainers/test_memory_plan.py` measures it again). Data-parallel replicas divide what their ZeRO
stage divides (arXiv 1910.02054, section 5): the optimiser's states from stage 1, gradients from 2, weights from 3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from inference.adapters import LINEAR_LAYERS
from inference.policy import ROW_COLUMNS
from inference.sampling import SamplingSettings
from mechanism.errors import ConfigError
from trainers.config import RunConfig
from trainers.optimisation.packing import LOGITS_AT_ONCE

GIB: Final = 2**30
HALF, SINGLE = 2, 4
"""Bytes of a number in bfloat16 and float32."""
ADAM: Final = 8
"""Bytes a parameter of AdamW's two moments, in float32."""
LOGIT_BYTES: Final = 14
"""Bytes a logit of its value in bfloat16 and in float32, its exponential, and its gradient."""
RESERVED_GIB: Final = 2.5
"""CUDA's context, NCCL's buffers, the text encoder."""
FRAGMENTED: Final = 0.08
"""Share of the memory that the allocator loses between blocks."""
TOKENS_PER_OFFER, TOKENS_BESIDE = 40, 160
"""A prompt's tokens for each offer, and for instructions, profile and question."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on: the sizes of a block, and how many parameters there are in all and in the adapter."""

    blocks: int
    hidden: int
    queries: int
    keys: int
    intermediate: int
    vocabulary: int
    parameters: int
    adapter_per_rank: int

    @property
    def block_token_bytes(self) -> float:
        """Bytes that a block keeps for a token in bfloat16, but for the prompt's keys that each answer repeats."""
        return 16 * self.hidden + 17 * self.queries + 6 * self.keys + 8 * self.intermediate


@dataclass(frozen=True, slots=True)
class Load:
    """Tokens of one forward pass of optimisation: prompts with the answers of a preference group behind each."""

    prompts: int
    prompt_tokens: int
    answers: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        """All tokens of the pass; every answer begins with a copy of its prompt's last token."""
        return self.prompts * (self.prompt_tokens + self.answers * (self.answer_tokens + 1))


@dataclass(frozen=True, slots=True)
class Need:
    """What one GPU must hold in a phase, in GiB by purpose."""

    phase: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        """All parts, the fragmented share and what is reserved, in GiB."""
        return sum(self.parts.values()) * (1 + FRAGMENTED) + RESERVED_GIB


def shape_of(base: str, file: Path | None = None) -> Shape:
    """Return the shape of a model from its `config.json`: that of its folder or hub entry, or the file given.

    Raises:
        ConfigError: if there is no configuration of the model at hand, or it is not one of a language model.
    """
    try:
        config: Any = _config(base, file)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = f"{str(error).partition(chr(10))[0]}: give the model's config.json by --shape"
        raise ConfigError("base", base, remedy) from error
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    linear = [m for name, m in model.named_modules() if name.rpartition(".")[2] in LINEAR_LAYERS]
    return Shape(
        blocks=config.num_hidden_layers,
        hidden=config.hidden_size,
        queries=heads * width,
        keys=config.num_key_value_heads * width,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        parameters=sum(p.numel() for p in model.parameters()),
        adapter_per_rank=sum(m.in_features + m.out_features for m in linear),
    )


def _config(base: str, file: Path | None) -> Any:
    shipped = resources.files("trainers") / "configs" / "shapes" / f"{base.rpartition('/')[2]}.json"
    if file is None and not shipped.is_file():
        from inference.models import resolve

        return AutoConfig.from_pretrained(resolve(base))
    values = json.loads((file or Path(str(shipped))).read_text(encoding="utf-8"))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def load_of(config: RunConfig, prompt_tokens: int | None) -> Load:
    """Return the largest forward pass of a run; without a count of tokens the prompt's are estimated."""
    optimisation, rollout = config.optimisation, config.rollout
    share = max(1, optimisation.batch // optimisation.processes)
    extra = config.preference.edited * (config.preference.swaps + config.preference.removals)
    answers = rollout.samples + extra
    if config.preference.losers is not None and optimisation.objective == "preference":
        answers = min(answers, config.preference.losers + 1)
    return Load(
        prompts=min(optimisation.batch_per_process, share),
        prompt_tokens=prompt_tokens or TOKENS_PER_OFFER * config.world.candidates + TOKENS_BESIDE,
        answers=answers,
        answer_tokens=rollout.max_new_tokens or SamplingSettings().max_new_tokens,
    )


def plan(config: RunConfig, shape: Shape, load: Load) -> list[Need]:
    """Return what sampling and optimisation need on each GPU, one process a GPU."""
    return [_sampling(shape), _optimisation(config, shape, load)]


def _sampling(shape: Shape) -> Need:
    cache = ROW_COLUMNS * shape.blocks * 2 * shape.keys * HALF
    return Need("rollouts", {"weights": shape.parameters * HALF / GIB, "cache": cache / GIB})


def _optimisation(config: RunConfig, shape: Shape, load: Load) -> Need:
    settings = config.optimisation
    stage, processes = settings.zero_stage, settings.processes
    trained = settings.lora_rank * shape.adapter_per_rank or shape.parameters
    weight = SINGLE if stage is None else HALF
    by_three, by_two, by_one = (processes if (stage or 0) >= least else 1 for least in (3, 2, 1))
    parts = {
        "weights": (shape.parameters + (trained if settings.lora_rank else 0)) * weight / by_three,
        "gradients": trained * weight / by_two,
        # Under ZeRO the float32 masters of half-precision weights belong to the optimiser.
        "optimiser": trained * (ADAM + (SINGLE if stage is not None else 0)) / by_one,
        "activations": _activations(shape, load, checkpointed=settings.gradient_checkpointing),
        "logits": min(LOGITS_AT_ONCE, load.prompts * load.answers * load.answer_tokens * shape.vocabulary)
        * LOGIT_BYTES,
    }
    if by_three > 1:
        block = (shape.parameters - shape.vocabulary * shape.hidden) / shape.blocks
        parts["gathered"] = (2 * block + shape.vocabulary * shape.hidden) * HALF
    elif stage is None:
        parts["half-precision copies"] = shape.parameters * HALF
    return Need("policy", {name: size / GIB for name, size in parts.items()})


def _activations(shape: Shape, load: Load, *, checkpointed: bool) -> float:
    columns = load.prompt_tokens + load.answer_tokens + 1
    repeated = 2 * load.prompts * load.answers * columns * shape.queries * HALF
    block = load.tokens * shape.block_token_bytes + repeated
    if not checkpointed:
        return shape.blocks * block
    return shape.blocks * load.tokens * shape.hidden * HALF + block
