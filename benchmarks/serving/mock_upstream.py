"""`python -m benchmarks.serving.mock_upstream`: an OpenAI-compatible model server that answers at once, for benchmarks.

Every stream consists of the same prebuilt bytes: 64 numbered deltas, so that a lost frame is noticed. With `--ads` a
further delta contains the marker of the prompt's first offer; with `--gap-ms` the deltas are sent one by one. The
server implements only as much HTTP as the routers under test need. `MockSettings.spread` is for drills that need every
offer shown now and then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from dataclasses import dataclass
from zlib import crc32

import msgspec

MODEL = "mock"
DELTAS = 64
"""Number of deltas in a stream."""
FIRST = b"w00 "
"""The first delta's text on the wire."""
_NUMBER = re.compile(rb"w(\d\d) ")
_HEAD = b"HTTP/1.1 %s\r\nContent-Type: %s\r\n"
_STREAM_HEAD = _HEAD % (b"200 OK", b"text/event-stream; charset=utf-8") + b"Transfer-Encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_USAGE = re.compile(rb'"include_usage"\s*:\s*true')
# the body is JSON: titles with escaped characters are skipped
_OFFER = re.compile(rb'- bid (\d+): (@[^@\[\]"\\]+@\[[^\]"\\]+\])')


def numbered(number: int) -> str:
    """Return the text of one delta."""
    return f"w{number:02d} "


def missing(raw: bytes) -> int:
    """Return how many of a stream's deltas are missing or out of order."""
    expected = 0
    for found in _NUMBER.finditer(raw):
        expected += int(found[1]) == expected
    return DELTAS - expected


@dataclass(slots=True)
class MockSettings:
    """`gap_s` seconds between deltas (0: all at once), also while the mock serves; `ads` adds the marker of an offer.

    It is the prompt's first offer; with `spread` one of them, as often as its bid is high, by the prompt's checksum.
    """

    gap_s: float = 0.0
    ads: bool = False
    spread: bool = False


class Frames:
    """The prebuilt bytes of all answers; `parts` are the frames of a stream, each an HTTP chunk."""

    def __init__(self) -> None:
        opening = _frame({"role": "assistant", "content": ""})
        self.deltas = [_frame({"content": numbered(i)}) for i in range(DELTAS)]
        self.parts = [opening, *self.deltas, _frame({}, "stop")]
        self.done = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        self.usage = _chunk(b"data: " + msgspec.json.encode(_envelope([]) | {"usage": _USED}) + b"\n\n")
        self.plain = _answer(_plain("".join(map(numbered, range(DELTAS)))))
        self._before = b"".join(self.parts[: 1 + DELTAS // 2])
        self._after = b"".join(self.parts[1 + DELTAS // 2 :])

    def stream(self, marker: bytes, usage: bool) -> bytes:
        """Return a whole stream with the marker in its middle."""
        middle = _marked(marker)
        return b"".join((_STREAM_HEAD, self._before, middle, self._after, self.usage if usage else b"", self.done))

    def marked(self, marker: bytes) -> list[bytes]:
        """Return the frames of a stream with the marker in its middle."""
        middle = [_marked(marker)] if marker else []
        return [*self.parts[: 1 + DELTAS // 2], *middle, *self.parts[1 + DELTAS // 2 :]]


class Connection(asyncio.Protocol):
    """One client connection; requests are answered one after the other."""

    def __init__(self, settings: MockSettings, frames: Frames) -> None:
        self._settings = settings
        self._frames = frames
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            until = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < until:
                return
            body, self._buffer = self._buffer[end + 4 : until], self._buffer[until:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if self._transport is None:
            return
        if head.startswith(b"GET"):
            models = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "mock"}]}
            self._transport.write(_answer(msgspec.json.encode(models)))
            return
        marker = marker_of(body, spread=self._settings.spread) if self._settings.ads else b""
        if not _STREAM.search(body):
            text = "".join(map(numbered, range(DELTAS)))
            self._transport.write(_answer(_plain(f"{text}{marker.decode()}")) if marker else self._frames.plain)
        elif self._settings.gap_s:
            self._pace(marker, _USAGE.search(body) is not None)
        else:
            self._transport.write(self._frames.stream(marker, _USAGE.search(body) is not None))

    def _pace(self, marker: bytes, usage: bool) -> None:
        """Send the frames one by one at fixed times, so that a late frame does not delay those after it."""
        assert self._transport is not None
        self._transport.write(_STREAM_HEAD)
        loop, gap, parts = asyncio.get_running_loop(), self._settings.gap_s, self._frames.marked(marker)
        began = loop.time()

        def send(number: int) -> None:
            if self._transport is None:
                return
            last = number == len(parts) - 1
            end = (self._frames.usage if usage else b"") + self._frames.done
            self._transport.write(parts[number] + end if last else parts[number])
            if not last:
                self._timer = loop.call_at(began + (number + 1) * gap, send, number + 1)

        send(0)


async def serve(port: int, settings: MockSettings, host: str = "127.0.0.1") -> asyncio.Server:
    """Listen on a port (0: a free one); the caller closes the server."""
    frames = Frames()
    return await asyncio.get_running_loop().create_server(
        lambda: Connection(settings, frames), host, port, backlog=4096, reuse_address=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.mock_upstream", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--gap-ms", type=float, default=0.0, help="between two deltas; 0: all at once")
    parser.add_argument("--ads", action="store_true", help="add the marker of the prompt's first offer")
    given = parser.parse_args()

    async def run() -> None:
        server = await serve(given.port, MockSettings(given.gap_ms / 1_000, given.ads))
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stopped.set)
        print(f"mock upstream at http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
        await stopped.wait()
        server.close()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())
    return 0


_USED = {"prompt_tokens": 100, "completion_tokens": DELTAS, "total_tokens": 100 + DELTAS}


def _envelope(choices: list[dict[str, object]], kind: str = "chat.completion.chunk") -> dict[str, object]:
    return {"id": "chatcmpl-mock", "object": kind, "created": 1_700_000_000, "model": MODEL, "choices": choices}


def _frame(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _chunk(b"data: " + msgspec.json.encode(_envelope([choice])) + b"\n\n")


def marker_of(body: bytes, *, spread: bool) -> bytes:
    """Return the marker of one of a prompt's offers, empty without any."""
    offers: list[tuple[int, bytes]] = [(int(bid), marker) for bid, marker in _OFFER.findall(body)]
    if not offers:
        return b""
    left = crc32(body) % max(1, sum(bid for bid, _ in offers)) if spread else 0
    for bid, marker in offers:
        if left < bid or not spread:
            return marker
        left -= bid
    return offers[-1][1]


def _marked(marker: bytes) -> bytes:
    return _frame({"content": marker.decode() + " "}) if marker else b""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return msgspec.json.encode(_envelope([choice], "chat.completion") | {"usage": _USED})


def _answer(body: bytes) -> bytes:
    return _HEAD % (b"200 OK", b"application/json") + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


if __name__ == "__main__":
    sys.exit(main())
