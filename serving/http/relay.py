"""Requests for more than one plain text: passed on to the policy's model server without ads, or refused with a reason.

Tools, images, JSON, several choices and log-probabilities have no place for a labelled link. Where the policy is behind
an OpenAI-compatible server, that server answers them: no auction takes place, and no record or event is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from serving.answering.question import ChatRequest
from serving.answering.rendering import without_links
from serving.errors import BadRequest, Overloaded, sse_error
from serving.policies.protocol import Relayed
from serving.router import Router

log = structlog.get_logger(__name__)

PASSED_ON = (
    *("messages", "stream", "stream_options", "n", "seed", "response_format", "temperature", "top_p", "stop"),
    *("max_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity"),
    *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "logprobs", "top_logprobs"),
    *("logit_bias", "modalities", "audio", "prediction", "web_search_options"),
)
"""Fields that the model server gets; not `ads`, and none that names the user."""
MOST_CHOICES = 16
REMEDY = "leave it out: this server's policy writes one plain text; behind a model server (--upstream) it is passed on"


def beyond_text(request: ChatRequest) -> tuple[str, object] | None:
    """Return the field, and its value, by which a request asks for more than one plain text; None if it does not."""
    if request.n not in (None, 1):
        return "n", request.n
    for name in ("tools", "functions", "logprobs", "top_logprobs", "logit_bias", "audio", "prediction"):
        if value := getattr(request, name):
            return name, value
    if request.web_search_options is not None:
        return "web_search_options", request.web_search_options
    if request.modalities not in (None, [], ["text"]):
        return "modalities", request.modalities
    if request.response_format is not None and request.response_format.type != "text":
        return "response_format.type", request.response_format.type
    for i, message in enumerate(request.messages):
        if message.role in ("tool", "function"):
            return f"messages[{i}].role", message.role
        if message.tool_calls or message.function_call:
            return f"messages[{i}].tool_calls", message.tool_calls or message.function_call
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.type != "text":
                return f"messages[{i}].content[{j}].type", part.type
    return None


async def relayed(
    router: Router, request: ChatRequest, raw: Mapping[str, Any], beyond: tuple[str, object], arrived: float
) -> ASGIApp:
    """Pass a request on and return its answer as a response.

    `raw` is its body as plain JSON values, `beyond` the field that asks for more than one plain text.

    Raises:
        BadRequest: if the policy has no model server that could answer it.
        Overloaded: if the limit of answers under way is reached.
    """
    server = router.backend.relay_server
    if server is None:
        raise BadRequest(*beyond, REMEDY)
    if request.n is not None and not 1 <= request.n <= MOST_CHOICES:
        raise BadRequest("n", request.n, f"give a whole number from 1 to {MOST_CHOICES}")
    length, limit = sum(len(message.text()) for message in request.messages), router.settings.max_characters
    if length > limit or not 1 <= len(request.messages) <= router.settings.max_messages:
        remedy = f"send 1 to {router.settings.max_messages} messages of {limit} characters in all"
        raise BadRequest("messages", f"{len(request.messages)} messages, {length} characters", remedy)
    if router.in_flight >= router.settings.in_flight:
        raise Overloaded("the router's limit of answers under way is reached")
    body = {name: raw[name] for name in PASSED_ON if raw.get(name) is not None}
    body["messages"] = [_without_own_links(message) for message in raw["messages"]]
    router.in_flight += 1
    try:
        answer = await server.relay(body, arrived + router.settings.deadline_s)
    except BaseException:
        router.in_flight -= 1
        raise
    router.metrics.relayed.labels(beyond[0].partition("[")[0]).inc()
    return _Relayed(router, answer)


class _Relayed:
    """The model server's answer as a response."""

    def __init__(self, router: Router, answer: Relayed) -> None:
        self._router, self._answer = router, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        sending = asyncio.create_task(self._send(send))
        try:
            await asyncio.wait((gone, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.gather(gone, sending, return_exceptions=True)
            await self._answer.chunks.aclose()
            self._router.in_flight -= 1

    async def _send(self, send: Send) -> None:
        streams = self._answer.media_type == "text/event-stream"
        headers = [(b"content-type", self._answer.media_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = b""
        try:
            async with aclosing(self._answer.chunks) as chunks:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except Exception as error:
            log.error("relay.broken_off", reason=type(error).__name__)
            if not streams:
                return  # the connection is closed within the body, so that no client takes it for the whole
            last = sse_error(error)
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _without_own_links(message: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier message without click tokens, which no model server needs."""
    content = message.get("content")
    if isinstance(content, str):
        return message | {"content": without_links(content)}
    if isinstance(content, list):
        return message | {"content": [_part_without_own_links(part) for part in content]}
    return message


def _part_without_own_links(part: dict[str, Any]) -> dict[str, Any]:
    text = part.get("text")
    return part | {"text": without_links(text)} if isinstance(text, str) else part
