"""A load generator for chat completions over HTTP/1.1 that measures latencies, gaps between frames, and lost frames.

The open loop sends requests at scheduled times, whether earlier ones are answered or not, and measures latencies from
those times, so that a server that stalls does not reduce the load. The saturating load, which finds a server's maximum,
keeps a number of requests open instead. The client is a raw protocol, because it shares the machine with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from benchmarks.figures import percentile
from benchmarks.serving.mock_upstream import FIRST, missing

LAST_CHUNK = b"\r\n0\r\n\r\n"
PATIENCE_S = 30.0
"""A request without an answer for this long has failed."""


@dataclass(slots=True)
class Measured:
    """The measurements of one load; times in seconds.

    failed     number of requests without an answer
    lost       number of numbered deltas that did not arrive
    joined     number of frames that came with the previous one in a single read: a gap of 0
    latencies  to the last byte of an answer
    first      to the first numbered delta
    gaps       between two reads of an answer's frames
    """

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    lost: int = 0
    frames: int = 0
    joined: int = 0
    most_open: int = 0
    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The number of answers a second."""
        return self.answered / self.seconds

    def latency_ms(self, percent: float) -> float:
        """Return a percentile of the time to the last byte."""
        return (percentile(self.latencies, percent) or 0.0) * 1_000

    def first_ms(self, percent: float) -> float:
        """Return a percentile of the time to the first numbered delta."""
        return (percentile(self.first, percent) or 0.0) * 1_000

    def gap_ms(self, percent: float) -> float:
        """Return a percentile of the time between frames."""
        return (percentile(self.gaps, percent, self.joined) or 0.0) * 1_000


@dataclass(frozen=True, slots=True)
class Target:
    """A server at `host:port`; `body(number)` is the JSON of the request of that number."""

    port: int
    body: Callable[[int], bytes]
    host: str = "127.0.0.1"
    headers: bytes = b""

    def request(self, number: int) -> bytes:
        """Return the bytes of one request."""
        body, host = self.body(number), f"{self.host}:{self.port}".encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n" % host
        return b"%s%sContent-Length: %d\r\n\r\n%s" % (head, self.headers, len(body), body)


class Client(asyncio.Protocol):
    """One connection with one request at a time; calls `done(self)` when an answer or the connection ends."""

    def __init__(self, measured: Measured, done: Callable[[Client], None]) -> None:
        self.measured = measured
        self.alive = True
        self.busy = False
        self.began = 0.0
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._marks: list[tuple[float, int]] = []
        self._first = 0.0
        self._until = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, began: float) -> None:
        """Send a request whose latency is measured from `began`."""
        assert self._transport is not None
        assert not self.busy, "one request at a time"
        self.busy, self.began, self._first, self._until = True, began, 0.0, 0
        self._pieces, self._marks = [], []
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.busy:
            return
        self._pieces.append(data)
        if frames := data.count(b"data: "):
            self._marks.append((now, frames))
        if not self._first and FIRST in data:
            self._first = now
        if self._ended(data):
            self._close_answer(now)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self.busy:
            self.busy = False
            self.measured.failed += 1
            self._done(self)

    def abort(self) -> None:
        """Close the connection; an answer under way has failed."""
        if self._transport is not None:
            self._transport.abort()

    def _ended(self, data: bytes) -> bool:
        if self._until == 0:
            head = b"".join(self._pieces)
            end = head.find(b"\r\n\r\n")
            if end < 0:
                return False
            lines = head[:end].lower().split(b"\r\n")
            length = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), -1)
            self._until = end + 4 + length if length >= 0 else -1
        if self._until < 0:
            tail = data if len(data) >= len(LAST_CHUNK) else b"".join(self._pieces[-8:])
            return tail.endswith(LAST_CHUNK)
        return sum(map(len, self._pieces)) >= self._until

    def _close_answer(self, now: float) -> None:
        self.busy = False
        measured, raw = self.measured, b"".join(self._pieces)
        if raw[9:12] == b"200" and b'"error"' not in raw:
            measured.answered += 1
            measured.lost += missing(raw)
            measured.latencies.append(now - self.began)
            if self._marks:
                measured.first.append((self._first or now) - self.began)
                measured.frames += sum(frames for _, frames in self._marks)
                measured.joined += sum(frames - 1 for _, frames in self._marks)
                times = [at for at, _ in self._marks]
                measured.gaps += [later - at for at, later in itertools.pairwise(times)]
        else:
            measured.failed += 1
        self._done(self)


class ConnectionPool:
    """The connections to one target, opened on demand and reused."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.open = 0
        self.number = 0
        self.freed = asyncio.Event()
        self._idle: list[Client] = []
        self._all: set[Client] = set()
        self._none_open = asyncio.Event()

    async def ready(self, measured: Measured, connections: int) -> None:
        """Open connections in advance, and record into `measured` from now on."""
        for client in self._idle:
            client.measured = measured
        while len(self._idle) < connections:
            self._idle.append(await self._connect(measured))

    async def send(self, measured: Measured, began: float) -> None:
        """Send the next request without waiting for its answer."""
        client = self._idle.pop() if self._idle else None
        if client is None or not client.alive:
            try:
                client = await self._connect(measured)
            except OSError:
                measured.failed += 1
                return
        self.open += 1
        measured.most_open = max(measured.most_open, self.open)
        self.number += 1
        self._none_open.clear()
        client.ask(self.target.request(self.number), began)

    async def drain(self, seconds: float = PATIENCE_S) -> None:
        """Wait for the open answers; abort those that do not arrive in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.open:
                    await self._none_open.wait()
        for client in [client for client in self._all if client.busy]:
            client.abort()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Close all connections."""
        for client in self._all:
            client.abort()

    def _release(self, client: Client) -> None:
        """Return a connection whose answer has ended to the pool."""
        self.open -= 1
        self.freed.set()
        if client.alive:
            self._idle.append(client)
        else:
            self._all.discard(client)
        if not self.open:
            self._none_open.set()

    async def _connect(self, measured: Measured) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: Client(measured, self._release), self.target.host, self.target.port
        )
        self._all.add(client)
        return client


async def open_load(
    pool: ConnectionPool, rate: float, seconds: float, seed: int = 0, poisson: bool = False
) -> Measured:
    """Send `rate` requests a second for `seconds`, evenly spaced or as a Poisson process, and await their answers."""
    measured, draw, at = Measured(seconds=seconds), random.Random(seed), 0.0
    await pool.ready(measured, min(256, max(4, round(rate / 4))))
    with _no_garbage_collection():
        start = time.perf_counter() + 0.05
        while at < seconds:
            wait = start + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            await pool.send(measured, start + at)
            at += draw.expovariate(rate) if poisson else 1 / rate
        await pool.drain()
    return measured


async def saturating_load(pool: ConnectionPool, concurrency: int, seconds: float) -> Measured:
    """Keep `concurrency` requests open for `seconds`, and count the answers that ended within that time."""
    measured = Measured()
    await pool.ready(measured, concurrency)
    with _no_garbage_collection():
        start = time.perf_counter()
        while (left := start + seconds - time.perf_counter()) > 0:
            pool.freed.clear()
            while pool.open < concurrency:
                await pool.send(measured, time.perf_counter())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await pool.freed.wait()
        measured.seconds, answered = time.perf_counter() - start, measured.answered
        await pool.drain()  # frames lost of the answers that are still open count as well
    measured.answered = answered
    return measured


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep the generator's own garbage collection out of the measured times."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
