"""The text encoder kept off the event loop: one thread, questions that wait are encoded together, results are cached.

An encoder takes milliseconds of every core, so a question that cannot be encoded in time goes without its vector and is
searched by its words alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

log = structlog.get_logger(__name__)

Vectors = NDArray[np.float32]
TOGETHER = 16
"""Questions in one call: later ones should not wait long for a whole queue of earlier ones."""


class Encoder(Protocol):
    """Maps texts to unit vectors, shape (n, width), float32 (`inference.encoder.TextEncoder`)."""

    def encode(self, texts: list[str], /) -> Vectors: ...


class QueryEncoder:
    """An encoder for the event loop. `cached` vectors are kept by a hash of their text; `waiting` texts may queue."""

    def __init__(self, encoder: Encoder, cached: int = 20_000, waiting: int = 256) -> None:
        self._encoder = encoder
        self._cached = cached
        self._waiting = waiting
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()
        self._pending: dict[str, asyncio.Future[Vectors | None]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

    async def vector(self, text: str, within_s: float) -> Vectors | None:
        """The text's unit vector, None where there is none in time; it is worked out anyway, for the next time."""
        key = blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
        if (known := self._vectors.get(key)) is not None:
            self._vectors.move_to_end(key)
            return known
        future = self._pending.get(text)
        if future is None:
            if len(self._pending) >= self._waiting:
                return None
            future = self._pending[text] = asyncio.get_running_loop().create_future()
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
        done, _ = await asyncio.wait((future,), timeout=within_s)
        return future.result() if done else None

    async def vectors(self, texts: Sequence[str]) -> Vectors | None:
        """The vectors of many texts, shape (n, width); None where the encoder failed. Not cached."""
        return await self._encode(list(texts))

    def close(self) -> None:
        """Drops what is queued; does not wait."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while self._pending:
            texts = list(self._pending)[:TOGETHER]
            found = await self._encode(texts)
            for number, text in enumerate(texts):
                vector = None if found is None else found[number]
                if vector is not None:
                    self._vectors[blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()] = vector
                self._pending.pop(text).set_result(vector)
            while len(self._vectors) > self._cached:
                self._vectors.popitem(last=False)

    async def _encode(self, texts: list[str]) -> Vectors | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.encode, texts)
        except Exception as error:
            # The message may quote the question: only the type is logged.
            log.error("texts were not encoded", reason=type(error).__name__, texts=len(texts))
            return None
