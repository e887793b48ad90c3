"""Candidate retrieval: which ads of the catalogue enter the auction of one question.

The most relevant by the frozen text encoder, then put in the order of their ids: the same candidates always make the
same prompt prefix, and position tells the policy nothing. The bid plays no part here; it decides inside the prompt.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mechanism.types import AdId
from serving.catalogue import Catalogue, Listing


class Encoder(Protocol):
    """Maps texts to unit vectors, shape (n, width), float32 (`inference.encoder.TextEncoder`)."""

    def encode(self, texts: list[str], /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class Retrieved:
    """One candidate with the cosine of its text to the question and interests."""

    listing: Listing
    relevance: float


class Retriever:
    """Finds candidates in one catalogue. The ads are encoded once, at construction."""

    def __init__(self, catalogue: Catalogue, encoder: Encoder) -> None:
        self._listings = tuple(catalogue)
        self._encoder = encoder
        self._lock = threading.Lock()  # the encoder's cache is not made for several threads
        self._vectors_ND = encoder.encode([f"{x.ad.title}: {x.ad.text}" for x in self._listings])

    def candidates(self, query: str, interests: tuple[str, ...], count: int) -> tuple[Retrieved, ...]:
        """The `count` most relevant listings to the query and, where known, the interests; ordered by ad id."""
        text = f"{query} {', '.join(interests)}" if interests else query
        with self._lock:
            query_D = self._encoder.encode([text])[0]
        cosines = self._vectors_ND @ query_D
        nearest = np.argsort(-cosines, kind="stable")[:count]
        chosen = [Retrieved(self._listings[i], float(cosines[i])) for i in nearest]
        return tuple(sorted(chosen, key=lambda r: natural_order(r.listing.ad.id)))


def natural_order(ad_id: AdId) -> tuple[tuple[int, int, str], ...]:
    """Sorting key under which A2 stands before A10; ids that differ only in leading zeros fall back to their text."""
    parts = re.findall(r"\d+|\D+", ad_id)
    return (*((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts), (2, 0, ad_id))
