"""The folder of a LoRA adapter in the layout of peft: its files, and the base that it names. No torch needed.

A folder with `adapter_config.json` is a model: its `base_model_name_or_path` names the base as `load_model` takes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from mechanism.errors import PolicyError

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"


def base_of(folder: Path) -> str | None:
    """Return the base that an adapter's folder names; None for a folder without an adapter.

    Raises:
        PolicyError: if the adapter names no base.
    """
    file = folder / ADAPTER_CONFIG
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise PolicyError(f"{file}: {error}: write the adapter again") from error
    if not isinstance(base, str) or not base:
        raise PolicyError(f"{file}: base_model_name_or_path is {base!r}: name the base model of the adapter")
    return base
