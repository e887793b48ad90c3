"""Connections: how many there are, how long a client may take to send a request, and when a response counts as sent.

uvicorn bounds idle connections after a response only. A client that opens connections and sends nothing, or one byte a
minute, would hold them for ever. It also keeps up to 64 KiB of a response in the process that a gone client never gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import ApiError


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a server's connections; times in seconds from the first byte of a request, or from its connection.

    `refused` is called with the reason of each connection that is closed for a limit.
    """

    connections: int
    head_s: float
    body_s: float
    head_bytes: int = 65_536
    refused: Callable[[str], None] = lambda _: None


def limited_protocol(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol class under these limits, for `uvicorn.Config(http=...)`."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits})


class _LimitedProtocol(HttpToolsProtocol):
    limits: ClassVar[ConnectionLimits]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.set_write_buffer_limits(high=0)  # `send` waits until the socket has taken all bytes before
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "connections", "the router has as many connections as it may have: try again in a moment")
        else:
            self._wait(self.limits.head_s, "head")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head_bytes > self.limits.head_bytes and not self.transport.is_closing():
            self._refuse(431, "head_size", "the request's headers are too large: send fewer or shorter ones")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._wait(self.limits.head_s, "head")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._wait(self.limits.body_s, "body")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def _wait(self, seconds: float, part: str) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self._late, part)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self, part: str) -> None:
        if not self.transport.is_closing():
            self._refuse(408, part, f"the request's {part} did not arrive in time: send it at once")

    def _refuse(self, status: int, reason: str, message: str) -> None:
        """Close the connection, with an error unless a response has begun."""
        self._stop_waiting()
        self.limits.refused(reason)
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = msgspec.json.encode(ApiError(status, message, code=reason).body())
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n"
            self.transport.write(head.encode() + (b"Retry-After: 2\r\n" if status == 503 else b"") + b"\r\n" + body)
        self.transport.close()
