"""Keeps third-party loading bars and warnings off the terminal while weights are read and written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import modeling_gguf_pytorch_utils as gguf_loading
from transformers.utils import logging as hf_logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers' progress bars and notices; errors still raise."""
    if not torch.cuda.is_available():
        # writing weights imports DeepSpeed where it is installed, which warns of a missing GPU unless it is told
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    # the GGUF reader draws its bar past transformers' own switch, so its bar is taken away by name
    reader: Any = gguf_loading
    gguf_bar = reader.tqdm
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    reader.tqdm = _no_bar
    try:
        yield
    finally:
        reader.tqdm = gguf_bar
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _no_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    return items
