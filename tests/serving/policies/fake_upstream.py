"""A fake OpenAI-compatible server whose every byte a test chooses, and the policy that asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mechanism.types import Ad, Candidate, Context
from serving.policies.breaker import BreakerSettings
from serving.policies.calls import CallSettings
from serving.policies.openai.exchange import KEY_VARIABLE
from serving.policies.openai.policy import UpstreamPolicy, UpstreamSettings

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
BREAKER = BreakerSettings()
CONTEXT = Context("c", "Which shoes?", (Candidate(Ad("A1", "Zephyr Shoes", "Light.", "Zephyr"), 500_000),))


def frame(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    return b"data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"


WHOLE = HEAD + frame("Hello.") + frame(finish="stop") + b"data: [DONE]\n\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def sends(*parts: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


async def hangs(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + frame("Hel"))
    await writer.drain()
    await asyncio.sleep(30)


def status(code: int, body: bytes = b"a private question") -> Answer:
    return sends(b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body))


@dataclass
class Fake:
    """A server that gives its answers in order and repeats the last one."""

    answers: list[Answer]
    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    handlers: set[asyncio.Task[Any]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        self.handlers.add(current)
        try:
            await self.serve(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # a connection that was opened and never used
        finally:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(x.split(":")[1]) for x in head.lower().split("\r\n") if x.startswith("content-length")), 0)
        self.heads.append(head)
        self.requests.append(json.loads(await reader.readexactly(length) or b"{}"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        writing = asyncio.create_task(answer(writer))  # type: ignore[arg-type]
        closing = asyncio.create_task(reader.read())  # ends when the client closes
        await asyncio.wait({writing, closing}, return_when=asyncio.FIRST_COMPLETED)
        if closing.done() and not writing.done():
            self.left.set()
        for task in (writing, closing):
            task.cancel()
        await asyncio.gather(writing, closing, return_exceptions=True)


@asynccontextmanager
async def faked(*answers: Answer, **settings: Any) -> AsyncIterator[tuple[Fake, UpstreamPolicy]]:
    fake = Fake(list(answers))
    server = await asyncio.start_server(fake.handle, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    policy = UpstreamPolicy(upstream(fake.port, **settings), {KEY_VARIABLE: "sk-test"})
    try:
        yield fake, policy
    finally:
        await policy.close()
        server.close()
        await asyncio.gather(*fake.handlers)


def upstream(port: int, retries: int = 2, breaker: BreakerSettings = BREAKER, **more: Any) -> UpstreamSettings:
    calls = CallSettings(retries=retries, backoff_s=0.01, breaker=breaker)
    return UpstreamSettings(f"http://127.0.0.1:{port}", "m", calls=calls, **more)
