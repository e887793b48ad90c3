"""The encoder off the event loop: cached, in batches, and never later than asked for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np

from serving.auction.encoding import QueryEncoder


class Counting:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, texts: list[str], /) -> Any:
        self.gate.wait(10)
        self.calls.append(texts)
        return np.array([[len(t), 0.0] for t in texts], np.float32)


def test_a_text_is_encoded_once() -> None:
    encoder = Counting()

    async def work() -> None:
        queries = QueryEncoder(encoder)
        vectors = await asyncio.gather(*(queries.vector(text, 5) for text in ("a", "bb", "a")))
        assert [float(v[0]) for v in vectors if v is not None] == [1, 2, 1]
        again = await queries.vector("bb", 5)
        assert again is not None
        assert float(again[0]) == 2
        queries.close()

    asyncio.run(work())
    assert sorted(t for call in encoder.calls for t in call) == ["a", "bb"]


def test_a_slow_or_busy_encoder_yields_no_vector() -> None:
    encoder = Counting()
    encoder.gate.clear()

    async def work() -> None:
        queries = QueryEncoder(encoder, waiting=2)
        first, second, third = await asyncio.gather(*(queries.vector(text, 0.05) for text in ("a", "b", "c")))
        assert first is second is third is None
        encoder.gate.set()
        found = await queries.vector("a", 5)  # computed after the first call gave up
        assert found is not None
        queries.close()

    asyncio.run(work())
    assert "c" not in [t for call in encoder.calls for t in call]  # the queue was full
