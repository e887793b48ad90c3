"""A load generator for chat completions over HTTP/1.1: what each answer took, frame by frame, and what was lost of it.

Open loop: requests go out at their appointed moments, whether earlier ones are answered or not, and latencies count
from those moments, so that a server that stalls cannot make the load lighter. The saturating load, which finds a
server's maximum, keeps a number of requests open instead. A raw protocol, since it shares the machine with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.serving.measured import Measured
from benchmarks.serving.numbered import FIRST, missing

LAST_CHUNK = b"\r\n0\r\n\r\n"
PATIENCE_S = 30.0
"""A request without an answer for so long has failed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server at `host:port`; `body(number)` is the JSON of the request of that number."""

    port: int
    body: Callable[[int], bytes]
    host: str = "127.0.0.1"
    headers: bytes = b""

    def request(self, number: int) -> bytes:
        """The bytes of one request."""
        body, host = self.body(number), f"{self.host}:{self.port}".encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n" % host
        return b"%s%sContent-Length: %d\r\n\r\n%s" % (head, self.headers, len(body), body)


class Client(asyncio.Protocol):
    """One connection: one request at a time, `done(self)` at the end of each answer or of the connection."""

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
        """Sends a request whose time counts from `began`."""
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

    def give_up(self) -> None:
        """Closes the connection; an answer under way has failed."""
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


class Crowd:
    """The connections to one target, made when they are needed and kept."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.open = 0
        self.number = 0
        self.freed = asyncio.Event()
        self._idle: list[Client] = []
        self._all: set[Client] = set()
        self._quiet = asyncio.Event()

    async def ready(self, measured: Measured, connections: int) -> None:
        """Opens connections in advance, and counts into `measured` from now on."""
        for client in self._idle:
            client.measured = measured
        while len(self._idle) < connections:
            self._idle.append(await self._connect(measured))

    async def send(self, measured: Measured, began: float) -> None:
        """Sends the next request; does not wait for its answer."""
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
        self._quiet.clear()
        client.ask(self.target.request(self.number), began)

    async def drain(self, seconds: float = PATIENCE_S) -> None:
        """Waits for the open answers; closes those that do not come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.open:
                    await self._quiet.wait()
        for client in [client for client in self._all if client.busy]:
            client.give_up()
        await asyncio.sleep(0)

    def close(self) -> None:
        """Closes all connections."""
        for client in self._all:
            client.give_up()

    def returned(self, client: Client) -> None:
        """An answer has ended."""
        self.open -= 1
        self.freed.set()
        if client.alive:
            self._idle.append(client)
        else:
            self._all.discard(client)
        if not self.open:
            self._quiet.set()

    async def _connect(self, measured: Measured) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: Client(measured, self.returned), self.target.host, self.target.port
        )
        self._all.add(client)
        return client


async def open_load(crowd: Crowd, rate: float, seconds: float, seed: int = 0, poisson: bool = False) -> Measured:
    """`rate` requests a second for so long, evenly spaced or as a Poisson process of the seed, and their answers."""
    measured, draw, at = Measured(seconds=seconds), random.Random(seed), 0.0
    await crowd.ready(measured, min(256, max(4, round(rate / 4))))
    with _undisturbed():
        start = time.perf_counter() + 0.05
        while at < seconds:
            wait = start + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            await crowd.send(measured, start + at)
            at += draw.expovariate(rate) if poisson else 1 / rate
        await crowd.drain()
    return measured


async def full_load(crowd: Crowd, together: int, seconds: float) -> Measured:
    """Keeps `together` requests open for so long; counts the answers that ended within that time."""
    measured = Measured()
    await crowd.ready(measured, together)
    with _undisturbed():
        start = time.perf_counter()
        while (left := start + seconds - time.perf_counter()) > 0:
            crowd.freed.clear()
            while crowd.open < together:
                await crowd.send(measured, time.perf_counter())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await crowd.freed.wait()
        measured.seconds, answered = time.perf_counter() - start, measured.answered
        await crowd.drain()  # what is lost of the answers that are still open counts all the same
    measured.answered = answered
    return measured


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The generator's own garbage collection stays out of the times."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
