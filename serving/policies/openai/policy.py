"""A policy behind any OpenAI-compatible `/v1/chat/completions` server (vLLM, llama.cpp and others).

Such a server reports no propensities: `Completed.choices` is empty, so its answers are no evidence for off-policy
evaluation. One that decodes by structural tags writes markers of candidates alone; with any other, only the strictness
of `mechanism.stream` stands between its text and a reader.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import msgspec

from mechanism.errors import ConfigError, PolicyError
from mechanism.prompt import PromptSettings, render_messages
from mechanism.structural_tags import MARK, text_tag
from mechanism.types import Context
from serving import tracing
from serving.errors import Overloaded
from serving.policies.breaker import Breaker
from serving.policies.calls import CallSettings, ServerCalls
from serving.policies.openai.exchange import KEY_VARIABLE, Exchange
from serving.policies.protocol import (
    OWN_LIMITS,
    AnswerLimits,
    AsyncPolicyBackend,
    Completed,
    PolicyEvent,
    Relay,
    Relayed,
    TextDelta,
)

_SEEDS = 2**31
"""Some servers keep a seed in 32 bits, signed."""


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Which server and model, and how they are asked.

    `url` is OpenAI's base URL; one without a path gets `/v1`. A `temperature` of None is the server's own. At most
    `in_flight` answers are open at a time. `structural_tags`: the server decodes by them (`mechanism.structural_tags`).
    `opener` is the character that opens a marker wherever the served model writes it, as its `policy.json` names it;
    None: "@" before a candidate's title.
    """

    url: str
    model: str
    prompt: PromptSettings = field(default_factory=PromptSettings)
    max_tokens: int = 512
    temperature: float | None = None
    in_flight: int = 512
    structural_tags: bool = False
    opener: str | None = None
    calls: CallSettings = field(default_factory=CallSettings)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError("upstream.url", _without_login(self.url), "give a base URL such as http://host:8000/v1")
        if parts.username is not None:
            remedy = f"take name and password out: a key belongs in {KEY_VARIABLE}"
            raise ConfigError("upstream.url", _without_login(self.url), remedy)
        if not self.model:
            raise ConfigError("upstream.model", self.model, "name a model of the server, see its /v1/models")
        for name, value in (("max_tokens", self.max_tokens), ("in_flight", self.in_flight)):
            if value < 1:
                raise ConfigError(f"upstream.{name}", value, "give a whole number >= 1")
        if self.opener is not None and len(self.opener) != 1:
            raise ConfigError("upstream.opener", self.opener, "give one character, as in the policy.json of the model")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ConfigError("upstream.temperature", self.temperature, "give a finite number >= 0")

    def endpoint(self, path: str) -> str:
        """Return the address of one of the API's endpoints."""
        base = self.url.rstrip("/")
        return (base if urlsplit(base).path else base + "/v1") + path


class UpstreamPolicy(AsyncPolicyBackend):
    """One model of one server, over one connection pool. Made anywhere, used on one event loop.

    A request's `max_ads` is not sent: the router leaves out the ads above it.
    """

    def __init__(self, settings: UpstreamSettings, environment: Mapping[str, str] = os.environ) -> None:
        self.settings = settings
        self._calls = ServerCalls(f"the upstream ({settings.model})", settings.calls)
        self.open_answers = 0
        self._headers = _headers(environment)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        named = f"{settings.endpoint('')}\n{settings.model}"
        self._digest = hashlib.sha256(named.encode()).hexdigest()

    @property
    def digest(self) -> str:
        """sha256 of the server's address and the model's name: the server does not report its weights."""
        return self._digest

    @property
    def breaker(self) -> Breaker:
        """State of the server's circuit breaker."""
        return self._calls.breaker

    @property
    def breaker_open(self) -> bool:
        """Whether requests are held back from the server."""
        return not self.breaker.closed

    async def stream(
        self, context: Context, seed: int, max_ads: int, deadline: float, limits: AnswerLimits = OWN_LIMITS
    ) -> AsyncGenerator[PolicyEvent, None]:
        """As `AsyncPolicyBackend.stream`; ServerDown, a PolicyError, while the server cannot be reached.

        `tokens` are the number of deltas if the server sends no usage. The log-probability is unknown, and given as 0.

        Raises:
            Overloaded: if `in_flight` answers are open.
            PolicyError: if the stream ends before the answer does.
        """
        if self.open_answers >= self.settings.in_flight:
            raise Overloaded("as many answers are open upstream as may be")
        self.open_answers += 1
        exchange = None
        try:
            with tracing.Call("upstream", model=self.settings.model) as traced:
                body, headers = self._body(context, seed, limits), traced.headers
                exchange = await self._calls.begin(lambda: self._attempt(body, deadline, headers), deadline)
                reader, more = exchange.reader, True
                while True:
                    if texts := exchange.texts:
                        text = "".join(texts).replace(self.settings.opener or MARK, MARK)
                        yield TextDelta(text, len(texts))
                    if reader.done or not more:
                        break
                    more = await exchange.read()
                if not reader.finish_reason:
                    raise PolicyError("the upstream ended the stream before the answer was complete")
                await exchange.keep()
                yield Completed(
                    choices=(),
                    logprob=0.0,
                    tokens=reader.tokens or reader.deltas,
                    prompt_tokens=reader.prompt_tokens,
                    finished=reader.finish_reason == "stop",
                )
        finally:
            self.open_answers -= 1
            if exchange is not None:
                exchange.close()

    @property
    def relay_server(self) -> Relay:
        """This server: it takes OpenAI's whole chat completion."""
        return self

    async def relay(self, body: Mapping[str, object], deadline: float) -> Relayed:
        """As `Relay.relay`; the answer has the settings' maximum of tokens, or fewer.

        Raises:
            Overloaded: if `in_flight` answers are open.
        """
        if self.open_answers >= self.settings.in_flight:
            raise Overloaded("as many answers are open upstream as may be")
        asked = body.get("max_completion_tokens", body.get("max_tokens"))
        tokens = self._tokens(asked if isinstance(asked, int) else None)
        kept = {name: value for name, value in body.items() if name != "max_completion_tokens"}
        data = msgspec.json.encode(kept | {"model": self.settings.model, "max_tokens": tokens})
        self.open_answers += 1
        try:
            exchange = await self._calls.begin(lambda: self._attempt(data, deadline, {}, whole=True), deadline)
        except BaseException:
            self.open_answers -= 1
            raise
        chunks = self._passed_on(exchange)
        await anext(chunks)  # closing a generator that has not begun would skip its `finally`
        return Relayed(exchange.media_type, chunks)

    async def _passed_on(self, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        try:
            yield b""
            async for chunk in exchange.chunks():
                yield chunk
        finally:
            self.open_answers -= 1
            exchange.close()

    async def ready(self) -> bool:
        """Return whether the server lists its models now."""
        if self._closed:
            return False
        limit = aiohttp.ClientTimeout(total=self.settings.calls.probe_s)
        try:
            url = self.settings.endpoint("/models")
            async with self._pool().get(url, headers=self._headers, timeout=limit, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def close(self) -> None:
        """Close the pool, and with it the answers under way."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, body: bytes, deadline: float, trace: Mapping[str, str], whole: bool = False) -> Exchange:
        """Send the request and read up to the first delta; with `whole`, leave the answer's body unread.

        Raises:
            PolicyError: if the policy is closed.
        """
        if self._closed:
            raise PolicyError("the server is shutting down")
        with self._calls.guarded(asyncio.get_running_loop().time, deadline) as works:
            headers = {**self._headers, **trace}
            exchange = Exchange(self._pool(), self.settings.endpoint("/chat/completions"), headers)
            try:
                await (exchange.send_whole(body, deadline) if whole else exchange.send(body, deadline))
            except BaseException:
                exchange.close()
                raise
            works()
            return exchange

    def _pool(self) -> aiohttp.ClientSession:
        """Return the one connection pool; it belongs to the event loop of the first request."""
        if self._session is None:
            # `in_flight` is the bound: a second one in the pool would make requests wait instead of refusing them.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            )
        return self._session

    def _tokens(self, wanted: int | None) -> int:
        return self.settings.max_tokens if wanted is None else min(wanted, self.settings.max_tokens)

    def _body(self, context: Context, seed: int, limits: AnswerLimits) -> bytes:
        temperature = self.settings.temperature if limits.temperature is None else limits.temperature
        ads = [c.ad for c in context.candidates]
        tag = text_tag(ads, self.settings.opener) if self.settings.structural_tags else None
        return msgspec.json.encode(
            {
                "model": self.settings.model,
                "messages": render_messages(context, self.settings.prompt),
                "stream": True,
                "stream_options": {"include_usage": True},
                "seed": seed % _SEEDS,
                "max_tokens": self._tokens(limits.max_tokens),
                **({} if temperature is None else {"temperature": temperature}),
                **({"response_format": tag} if tag else {}),
            }
        )


def _headers(environment: Mapping[str, str]) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
    key = environment.get(KEY_VARIABLE, "").strip()
    if not key:
        return headers
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(KEY_VARIABLE, f"<{len(key)} characters>", "give a key without blanks or control characters")
    return headers | {"Authorization": f"Bearer {key}"}


def _without_login(url: str) -> str:
    """Return the URL without user name and password, for errors."""
    return url.rpartition("@")[2]
