"""Models by name or path: `assistant` and `tiny` (shipped), `smollm2-135m` (from a package), a hub id, or a folder.

A model's folder may contain `policy.json` beside the weights: the prompt settings of the model, how it is sampled, and
the character that opens its markers. The folder of an adapter is a model, too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.adapter_files import base_of
from inference.adapters import attach_adapter, merge_adapter
from inference.constraint import MARK
from inference.packaged import converted
from inference.quiet import quiet_loading
from inference.sampling import SamplingSettings
from mechanism.errors import PolicyError
from mechanism.prompt import PromptSettings

POLICY_FILE = "policy.json"
SHIPPED: Final = ("tiny", "assistant")


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """What a checkpoint says of itself: its prompt, how it is sampled, and the character that opens its markers."""

    prompt: PromptSettings = field(default_factory=PromptSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    opener: str = MARK


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model with its tokenizer and settings.

    `model` and `tokenizer` are those of transformers, which leaves configuration and outputs untyped.
    """

    model: Any
    tokenizer: Any
    prompt: PromptSettings
    sampling: SamplingSettings
    opener: str = MARK


def resolve(name_or_path: str) -> str:
    """Return the folder or hub id of a model name; a packaged model is converted on its first use."""
    if name_or_path in SHIPPED:
        return str(resources.files("inference") / "models_data" / name_or_path)
    packaged = converted(name_or_path)
    return str(packaged) if packaged else name_or_path


def load_model(name_or_path: str, dtype: torch.dtype = torch.float32, *, merge: bool = True) -> LoadedModel:
    """Load model and tokenizer, onto the GPU if there is one.

    The folder of an adapter loads its base with the adapter merged into it; without `merge` the adapter stays apart and
    its weights are the only ones to train.
    """
    where = resolve(name_or_path)
    base = base_of(Path(where))
    if base is None:
        return _load(name_or_path, where, dtype)
    loaded = _load(base, resolve(base), torch.float32 if merge else dtype)
    attach_adapter(loaded.model, Path(where))
    if merge:  # in full precision: a sum of halves would round twice
        merge_adapter(loaded.model)
        loaded.model.to(dtype)
    settings = read_policy_settings(Path(where))
    return replace(loaded, prompt=settings.prompt, sampling=settings.sampling, opener=settings.opener)


def _load(name: str, where: str, dtype: torch.dtype) -> LoadedModel:
    """Load a model that is not an adapter.

    Raises:
        PolicyError: if the model cannot be loaded, or lacks weights or a chat template.
    """
    try:
        with quiet_loading():
            tokenizer: Any = AutoTokenizer.from_pretrained(where)
            loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise PolicyError(
            f"model {name!r} could not be loaded: {error}. Give assistant, tiny, smollm2-135m, a folder in Hugging "
            "Face layout, or the id of a model that is in the local hub cache"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        # transformers would continue with random weights in their place.
        raise PolicyError(f"model {name!r} lacks weights: {', '.join(sorted(report['missing_keys'])[:3])}")
    if not tokenizer.chat_template:
        raise PolicyError(f"model {name!r} has no chat template: give an instruction-following model")
    for weights in model.parameters():
        # Weights mapped from a file are not aligned, which changes how matrix products round. A trained policy and
        # the same policy loaded from disk must give the same answers.
        weights.data = weights.data.clone()
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    settings = read_policy_settings(Path(where))
    return LoadedModel(model, tokenizer, settings.prompt, settings.sampling, settings.opener)


def read_policy_settings(folder: Path) -> PolicySettings:
    """Return the settings in `policy.json`, or the defaults for an instruction-following model if it is missing.

    Raises:
        PolicyError: if the file is not valid.
    """
    file = folder / POLICY_FILE
    if not file.is_file():
        return PolicySettings()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        prompt, sampling = PromptSettings(**data.get("prompt", {})), SamplingSettings(**data.get("sampling", {}))
        opener = data.get("opener", MARK)
    except (TypeError, AttributeError, ValueError) as error:
        raise PolicyError(f"{file}: {error}; use the fields of PromptSettings and SamplingSettings") from error
    if not (isinstance(opener, str) and len(opener) == 1):
        raise PolicyError(f"{file}: opener is {opener!r}: give one character that opens a marker")
    return PolicySettings(prompt, sampling, opener)


def write_policy_settings(folder: Path, settings: PolicySettings) -> None:
    """Write `policy.json` beside a model's weights."""
    data = {"prompt": asdict(settings.prompt), "sampling": asdict(settings.sampling), "opener": settings.opener}
    (folder / POLICY_FILE).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def weights_digest(model: Any) -> str:
    """Return the sha256 over names and values of all parameters, which does not depend on the file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
