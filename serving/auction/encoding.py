"""The text encoder, called off the event loop: on one thread, in batches, with a cache.

An encoder occupies every core for milliseconds. A question that cannot be encoded in time is searched by its words
alone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Protocol

import structlog

from serving.auction.retrieval.vectors import Vectors

log = structlog.get_logger(__name__)

BATCH = 16
"""Questions in one call: few enough that later questions do not wait long behind a queue of earlier ones."""


class Encoder(Protocol):
    """Maps texts to unit vectors, shape (n, width), float32 (`inference.encoder.TextEncoder`)."""

    def encode(self, texts: list[str], /) -> Vectors: ...


class QueryEncoder:
    """An encoder for the event loop. It caches `cached` vectors by a hash of their text and queues `waiting` texts."""

    def __init__(self, encoder: Encoder, cached: int = 20_000, waiting: int = 256) -> None:
        self._encoder = encoder
        self._cached = cached
        self._waiting = waiting
        self._vectors: OrderedDict[bytes, Vectors] = OrderedDict()
        self._pending: dict[str, asyncio.Future[Vectors | None]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

    async def vector(self, text: str, within_s: float) -> Vectors | None:
        """Return the text's unit vector, None if it is not ready in time; it is then computed for later calls."""
        key = _cache_key(text)
        if (cached := self._vectors.get(key)) is not None:
            self._vectors.move_to_end(key)
            return cached
        future = self._pending.get(text)
        if future is None:
            if len(self._pending) >= self._waiting:
                return None
            future = self._pending[text] = asyncio.get_running_loop().create_future()
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._encode_pending())
        done, _ = await asyncio.wait((future,), timeout=within_s)
        return future.result() if done else None

    async def vectors(self, texts: Sequence[str]) -> Vectors | None:
        """Return the vectors of many texts, shape (n, width), uncached; None if the encoder failed."""
        return await self._encode(list(texts))

    def close(self) -> None:
        """Drop queued calls without waiting for the running one."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _encode_pending(self) -> None:
        while self._pending:
            texts = list(self._pending)[:BATCH]
            vectors = await self._encode(texts)
            for number, text in enumerate(texts):
                vector = None if vectors is None else vectors[number]
                if vector is not None:
                    self._vectors[_cache_key(text)] = vector
                self._pending.pop(text).set_result(vector)
            while len(self._vectors) > self._cached:
                self._vectors.popitem(last=False)

    async def _encode(self, texts: list[str]) -> Vectors | None:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.encode, texts)
        except Exception as error:
            # The message may quote the question: only the type is logged.
            log.error("encoder.failed", reason=type(error).__name__, texts=len(texts))
            return None


def _cache_key(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()
