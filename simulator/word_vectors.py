"""The encoder of the simulated users: static word vectors, averaged over a text.

It is deliberately another one than `inference.encoder`, from which the click predictor and the baselines read texts: a
predictor with the same encoder would hold the answer. The vectors (256-d, MIT licence) are read from the package
`wordllama`, whose own loader would download a tokenizer that the package contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from mechanism.errors import PolicyError

WIDTH = 256


class WordVectors:
    """Maps texts to unit vectors, with a cache by text, because answers repeat many sentences."""

    def __init__(self, cache_size: int = 400_000) -> None:
        folder = _packaged_vectors()
        weights = load_file(folder / "weights" / "l2_supercat_256.safetensors")
        self._table_VD: NDArray[np.float32] = weights["embedding.weight"].astype(np.float32)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
        self._cache: dict[str, NDArray[np.float32]] = {}
        self._cache_size = cache_size

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors (texts, 256); an empty text has the zero vector, whose cosine with any other is 0."""
        if len(self._cache) > self._cache_size:
            self._cache.clear()
        for text in texts:
            if text not in self._cache:
                self._cache[text] = self._vector(text)
        return np.array([self._cache[t] for t in texts], np.float32).reshape(len(texts), WIDTH)

    def _vector(self, text: str) -> NDArray[np.float32]:
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not ids:
            return np.zeros(WIDTH, np.float32)
        mean_D = self._table_VD[ids].mean(0)
        return np.asarray(mean_D / max(float(np.linalg.norm(mean_D)), 1e-9), np.float32)


def _packaged_vectors() -> Path:
    spec = find_spec("wordllama")
    if spec is None or spec.origin is None:
        raise PolicyError("the simulated users' word vectors are missing: pip install 'llm-auction[train]'")
    return Path(spec.origin).parent


@cache
def shared_vectors() -> WordVectors:
    """Return the vectors of this process; sharing them shares their cache."""
    return WordVectors()
