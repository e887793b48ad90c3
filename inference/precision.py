"""The precision that weights are read in where nothing else decides: bfloat16 where the hardware multiplies it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch

BFLOAT16_UNITS: Final = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Capabilities of x86 and ARM processors with instructions for products of bfloat16 numbers."""


@cache
def computes_bfloat16_fast(device_type: str) -> bool:
    """Return whether a kind of device has instructions of its own for bfloat16.

    A processor that only emulates it is 2.5 to 4 times slower than in float32.
    """
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: Any = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    return any(capabilities.get(unit, False) for unit in BFLOAT16_UNITS)


def fast_dtype() -> torch.dtype:
    """Return the type in which this machine samples fastest."""
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.bfloat16 if computes_bfloat16_fast(device_type) else torch.float32
