"""Silence of third parties while weights are read or written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging as hf_logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silence transformers' progress bars and notices; errors still raise."""
    if not torch.cuda.is_available():
        # Writing weights imports DeepSpeed if it is installed, which otherwise warns that there is no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
