"""Training computes in bfloat16 only where the processor has instructions for it, unless it is asked to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from trainers.optimisation.precision import autocast, compute_dtype, computes_bfloat16_fast


@pytest.fixture(autouse=True)
def _fresh_decision() -> Iterator[None]:
    computes_bfloat16_fast.cache_clear()
    yield
    computes_bfloat16_fast.cache_clear()


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True, "sve_max_length": 128}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_asks_the_processor(
    capabilities: dict[str, object], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert compute_dtype("auto", "cpu") is expected
    # what is asked for by name is computed, at whatever speed
    assert compute_dtype("bfloat16", "cpu") is torch.bfloat16
    assert compute_dtype("float32", "cpu") is torch.float32


@pytest.mark.parametrize("supported", [True, False])
def test_auto_asks_the_gpu_for_native_support(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: supported and not including_emulation
    )
    assert compute_dtype("auto", "cuda") is (torch.bfloat16 if supported else torch.float32)


def test_products_are_computed_in_the_chosen_type() -> None:
    numbers = torch.full((2, 2), 1.001)
    with autocast("bfloat16", "cpu"):
        assert (numbers @ numbers).dtype is torch.bfloat16
    with autocast("float32", "cpu"):
        assert (numbers @ numbers).dtype is torch.float32
