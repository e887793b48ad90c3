"""The precision that models compute in while they train and are compared: one decision for every phase.

A bfloat16 step is 2.5 to 4 times slower than a float32 one on processors that only emulate it, so `auto` asks the
processor. The weights stay in float32 outside of ZeRO; only products are computed in bfloat16 (autocast).
"""

from __future__ import annotations

from typing import Literal

import torch

from inference.precision import computes_bfloat16_fast

Precision = Literal["auto", "float32", "bfloat16"]


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
