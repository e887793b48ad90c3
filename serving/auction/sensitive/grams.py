"""Hashed pieces of a text: runs of characters, words and pairs of words, in any language.

A classifier that reads them needs no vocabulary, so that stems, compounds and misspellings count without a list of
them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from serving.lexicon import plain

SIZES = (2, 3, 4, 5)
"""Lengths of the runs of characters; blanks between words are characters."""
READ = 2_000
"""Characters of a message that are read, from its beginning and from its end."""
_PRIME = np.uint64(1_099_511_628_211)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SEED = np.uint64(14_695_981_039_346_656_037)


@dataclass(frozen=True, slots=True)
class Grams:
    """Hashes of a text's pieces (pieces,) of 32 bits, and a weight for each; the squares of a kind's weights sum to 1.

    A table of 2^n rows is read at `hashes & (2^n - 1)`.
    """

    hashes_P: NDArray[np.int64]
    weights_P: NDArray[np.float32]


def grams_of(text: str) -> Grams:
    """Return the pieces of a text."""
    if len(text) > 2 * READ:
        text = f"{text[:READ]} {text[-READ:]}"
    folded = plain(text)
    words = folded.split()
    pieces = [f"w {word}" for word in words]
    pieces += [f"b {first} {second}" for first, second in pairwise(words)]
    pieces += [f"s {first} {third}" for first, third in zip(words, words[2:], strict=False)]
    by_word = np.unique(np.array([zlib.crc32(p.encode(errors="surrogatepass")) for p in pieces], np.int64))
    kinds = [_runs(folded), by_word]
    weights = [np.full(len(kind), 1 / np.sqrt(max(len(kind), 1)), np.float32) for kind in kinds]
    return Grams(np.concatenate(kinds), np.concatenate(weights))


def _runs(text: str) -> NDArray[np.int64]:
    """Return the distinct hashes of all runs of characters, each size from the one before (FNV-1a by character)."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32).astype(np.uint64)
    found: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    hashes = np.full(len(codes), _SEED, np.uint64)
    for size in range(1, min(max(SIZES), len(codes)) + 1):
        hashes = (hashes[: len(codes) - size + 1] ^ codes[size - 1 :]) * _PRIME
        if size in SIZES:
            mixed = (hashes ^ (hashes >> np.uint64(29))) * _MIX
            found.append((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0xFFFFFFFF))
    return np.unique(np.concatenate(found)).astype(np.int64)
