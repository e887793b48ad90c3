"""LoRA adapters: a few million weights that change a base model, in the folder layout of peft.

`adapter_files` describes the folder. Adapters are merged into the base's weights for serving and sampling, and kept
apart for training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from inference.adapter_files import ADAPTER_WEIGHTS
from mechanism.errors import PolicyError

LINEAR_LAYERS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama or Qwen block."""


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """The shape of a LoRA adapter: rank, scale (`alpha` / rank), and what it changes.

    `modules` are the linear layers of each block, `first_block` the lowest block: those below are not changed, so that
    no gradient flows through them.
    """

    rank: int = 16
    alpha: int = 32
    modules: tuple[str, ...] = LINEAR_LAYERS
    first_block: int = 0

    def config(self, base: str, blocks: int) -> LoraConfig:
        """Return peft's configuration on a base model of so many blocks."""
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=list(self.modules),
            layers_to_transform=list(range(self.first_block, blocks)),
            bias="none",
            task_type="CAUSAL_LM",
            base_model_name_or_path=base,
        )


def add_adapter(model: Any, settings: AdapterSettings, base: str) -> None:
    """Add a new adapter, which changes nothing yet, and leave only its weights trainable."""
    inject_adapter_in_model(settings.config(base, model.config.num_hidden_layers), model)
    freeze_base(model)


def attach_adapter(model: Any, folder: Path, name: str = "default") -> None:
    """Add the adapter of a folder to its base model, apart from the base's weights and under a name of its own.

    Raises:
        PolicyError: if its weights are missing or belong to another model.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    config.inference_mode = False
    inject_adapter_in_model(config, model, adapter_name=name)
    try:
        weights = load_file(str(folder / ADAPTER_WEIGHTS))
        report: Any = set_peft_model_state_dict(model, weights, adapter_name=name)
    except (OSError, RuntimeError) as error:
        raise PolicyError(f"adapter {folder}: {error}: give the adapter's own base model") from error
    if report.unexpected_keys:
        raise PolicyError(f"adapter {folder} has weights of another model: {report.unexpected_keys[0]}")
    freeze_base(model)


def has_adapter(model: Any) -> bool:
    """Return whether a model has an adapter that is not merged."""
    return any(not layer.merged for layer in _layers(model))


def merge_adapter(model: Any) -> None:
    """Fold the adapter into the base's weights: the same outputs without the adapter's cost, and nothing to train."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], layer.base_layer)
    for weights in model.parameters():
        weights.requires_grad_(False)


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter of a model alone, its weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    for config in model.peft_config.values():
        config.save_pretrained(str(folder))
    tensors = {
        name: value.detach().half().cpu().contiguous() for name, value in get_peft_model_state_dict(model).items()
    }
    save_file(tensors, str(folder / ADAPTER_WEIGHTS), metadata={"format": "pt"})


def freeze_base(model: Any) -> None:
    """Leave only the adapter's weights trainable."""
    for name, weights in model.named_parameters():
        weights.requires_grad_("lora_" in name)


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
