"""One request to `/v1/chat/completions` and its answer as it arrives, with failures as the project's errors.

Retries and the breaker are `serving.policies.calls`', the connection pool is `serving.policies.openai.policy`'s.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import msgspec

from mechanism.errors import AuctionError, InputError, PolicyError
from serving.errors import Overloaded, PolicyTimeout
from serving.policies.calls import ServerDown
from serving.policies.openai.frames import FrameReader

KEY_VARIABLE = "LLM_AUCTION_UPSTREAM_KEY"
"""Environment variable of the server's API key; without it none is sent."""
LONGEST_REFUSAL, LONGEST_SHOWN_REFUSAL = 65_536, 500
"""Bytes of a refusal that are read, and characters of its message that are passed on."""
_LAST_BYTES_S = 0.1
"""How long the end of an HTTP body may take after `[DONE]`; a slower connection is closed, not kept."""


class _Message(msgspec.Struct):
    message: str = ""


class _Refusal(msgspec.Struct):
    error: _Message


_REFUSAL = msgspec.json.Decoder(_Refusal)


class Exchange:
    """One request and what has arrived of its answer; `texts` are the deltas of the last read."""

    def __init__(self, pool: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> None:
        self.reader = FrameReader()
        self.texts: list[str] = []
        self._pool, self._url, self._headers = pool, url, headers
        self._response: aiohttp.ClientResponse | None = None

    async def send(self, body: bytes, deadline: float) -> None:
        """Send the request and read up to the first delta, or to the end of an answer without any.

        Refusals and failed connections raise what `_status_error` and `_connection_error` make of them.

        Raises:
            PolicyError: if the server does not stream.
        """
        self._response = await self._posted(body, deadline)
        if self._response.status != 200:
            refusal = _status_error(self._response.status)
            raise refusal
        if self._response.content_type != "text/event-stream":
            raise PolicyError("the upstream did not stream: it must serve /v1/chat/completions with stream=true")
        while not self.texts and not self.reader.done and await self.read():
            pass

    async def send_whole(self, body: bytes, deadline: float) -> None:
        """Send a request whose answer is passed on as it is.

        Raises:
            InputError: if the server refuses the request, with its own message.
            PolicyError: if it answers with another type than JSON or server-sent events.
        """
        self._response = await self._posted(body, deadline)
        if self._response.status in (400, 404, 413, 422):
            refused = f"refused by the model server ({self._response.status})"
            raise InputError("request", refused, await self._refusal())
        if self._response.status != 200:
            refusal = _status_error(self._response.status)
            raise refusal
        if self.media_type not in ("application/json", "text/event-stream"):
            raise PolicyError("the upstream sent another type than JSON or server-sent events")

    @property
    def media_type(self) -> str:
        """Content type of the answer."""
        assert self._response is not None
        return self._response.content_type

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer's bytes as they arrive."""
        assert self._response is not None
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = _connection_error(error, began=True)
            raise failure from None

    async def _posted(self, body: bytes, deadline: float) -> aiohttp.ClientResponse:
        left = max(0.001, deadline - asyncio.get_running_loop().time())
        # aiohttp reads 0 as no limit, and rounds timeouts above its threshold up to whole seconds.
        limit = aiohttp.ClientTimeout(total=left, ceil_threshold=math.inf)
        try:
            return await self._pool.post(
                self._url, data=body, headers=self._headers, timeout=limit, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = _connection_error(error, began=False)
            raise failure from None

    async def _refusal(self) -> str:
        """Return the server's message about a request that it refuses; its sender gets it, and no log does."""
        assert self._response is not None
        try:
            message = _REFUSAL.decode(await self._response.content.read(LONGEST_REFUSAL)).error.message
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, UnicodeDecodeError):
            message = ""
        return message[:LONGEST_SHOWN_REFUSAL] or "it gave no reason"

    async def read(self) -> bool:
        """Read what has arrived, or wait for more; return False at the end of the body."""
        assert self._response is not None
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = _connection_error(error, began=self.reader.deltas > 0)
            raise failure from None
        self.texts = self.reader.feed(data or b"\n")  # the end of the body also ends its last line
        return bool(data)

    async def keep(self) -> None:
        """Read to the end of the body, which returns the connection to the pool."""
        assert self._response is not None
        if not self._response.content.at_eof():
            try:
                async with asyncio.timeout(_LAST_BYTES_S):
                    await self._response.content.readany()
            except (aiohttp.ClientError, TimeoutError):
                self._response.close()

    def close(self) -> None:
        """Close the connection of an answer that has not ended, which cancels it at the server."""
        if self._response is not None:
            self._response.close()


def _connection_error(error: Exception, began: bool) -> PolicyError:
    """Return the error for a failed request or read: ServerDown only for a request that may be sent again."""
    if isinstance(error, TimeoutError):
        return PolicyTimeout("the policy passed its deadline")
    if began:
        return PolicyError("the connection to the upstream broke within the answer")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return ServerDown("the upstream cannot be reached, or is going down: see that it runs at the address given")
    return PolicyError("the upstream sent invalid HTTP: see that the address is a model server's")


def _status_error(status: int) -> AuctionError:
    """Return the error for a status other than 200. The response body may quote the question and is not passed on."""
    if status in (400, 413, 422):
        return InputError("messages", f"refused by the upstream ({status})", "send fewer or shorter messages")
    if status in (401, 403):
        return PolicyError(f"the upstream wants another API key ({status}): set {KEY_VARIABLE}")
    if status == 404:
        return PolicyError("the upstream has no such model or address: compare its /v1/models")
    if status in (429, 503):
        return Overloaded("the upstream has no room")
    return PolicyError(f"the upstream answered with status {status}: see its log")
