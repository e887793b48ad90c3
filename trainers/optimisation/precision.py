"""The precision that models compute in while they train and are compared: one decision for every phase.

A bfloat16 step is 2.5 to 4 times slower than a float32 one on processors that only emulate it, so `auto` asks the
processor. The weights stay in float32 outside of ZeRO; only products are computed in bfloat16 (autocast).
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
BFLOAT16_UNITS: Final = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Capabilities of x86 and ARM processors with instructions for products of bfloat16 numbers."""


def compute_dtype(precision: Precision, device_type: str) -> torch.dtype:
    """Return the type that products are computed in on a kind of device ("cpu", "cuda", ...)."""
    if precision == "auto":
        return torch.bfloat16 if computes_bfloat16_fast(device_type) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(precision: Precision, device_type: str) -> torch.autocast:
    """Return the context in which a forward pass on this kind of device computes in `compute_dtype`."""
    # One with a float32 type would warn, and cast weights of lower precision back and forth.
    return torch.autocast(device_type, torch.bfloat16, enabled=compute_dtype(precision, device_type) is torch.bfloat16)


def training_device_type() -> str:
    """Return the kind of device that optimisation runs on: CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@cache
def computes_bfloat16_fast(device_type: str) -> bool:
    """Return whether a kind of device has instructions of its own for bfloat16."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Any = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    return any(capabilities.get(unit, False) for unit in BFLOAT16_UNITS)
