"""One running answer as a response, complete or streamed; how either is written is an API's `Wire`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from serving import tracing
from serving.answering.answer import RunningAnswer
from serving.answering.question import Question
from serving.answering.rendering import VisibleDelta
from serving.answering.result import AnswerRequest, AnswerResult
from serving.errors import ApiError, BadRequest, as_api_error
from serving.http.bodies import HttpRequest
from serving.router import Router

log = structlog.get_logger(__name__)

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")


class Wire(Protocol):
    """How one API writes an answer: whole, or as server-sent events. One object an answer."""

    def whole(self, result: AnswerResult, content: str) -> bytes:
        """Return the body of a complete answer."""
        ...

    def begin(self) -> bytes:
        """Return the events before the first text."""
        ...

    def delta(self, delta: VisibleDelta) -> bytes:
        """Return the event of the next text."""
        ...

    def end(self, result: AnswerResult) -> bytes:
        """Return the events after the last text."""
        ...

    def error(self, error: Exception) -> bytes:
        """Return the event in place of `end` for an answer that failed after its stream has begun."""
        ...


async def respond(
    router: Router,
    request: HttpRequest,
    question: Question,
    owner: str,
    arrived: float,
    wire_of: Callable[[AnswerRequest], Wire],
) -> ASGIApp:
    """Begin the answer to a question and return its response: once it is complete, or once its stream has begun.

    The error that ends an answer before any text is raised.

    Raises:
        ApiError: 503 while the server is going down.
    """
    if router.draining:
        raise ApiError(503, "the server is going down: ask again, another router will answer", code="draining")
    base_url, streams = router.settings.public_url or _own_address(request), question.request.stream
    with tracing.continued(request.headers):
        answer = router.begin_answer(question, owner=owner, base_url=base_url, arrived=arrived)
    watcher = asyncio.create_task(_cancel_when_gone(request.receive, answer.task))
    try:
        first = await answer.deltas.take() if streams else []
        if first:
            return _Stream(answer, wire_of(answer.request), first, watcher)
        result = await answer.result()
    except BaseException:
        await _cancel(answer.task, watcher)
        raise
    if streams:  # a stop sequence ended it before any text
        return _Stream(answer, wire_of(answer.request), [], watcher)
    watcher.cancel()
    content = "".join(delta.content for delta in answer.deltas.take_ready())
    return _Json(wire_of(answer.request).whole(result, content))


class _Json:
    """A complete response, already encoded."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = str(len(self._body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


class _Stream:
    """A response of server-sent events; deltas that are ready together go in one write."""

    def __init__(
        self, answer: RunningAnswer, wire: Wire, first: list[VisibleDelta], watcher: asyncio.Task[None]
    ) -> None:
        self._answer, self._wire, self._first, self._watcher = answer, wire, first, watcher

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, wire, deltas = self._answer, self._wire, self._first
        body = wire.begin()
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            while deltas:
                body += b"".join([wire.delta(delta) for delta in deltas])
                if not answer.task.done():  # otherwise the last events are ready, too, and go into the same write
                    ready, body = body, b""
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
                deltas = await answer.deltas.take()
            body += wire.end(await answer.result())
        except Exception as error:
            if as_api_error(error).status == 500:
                log.error("http.stream_failed", auction_id=answer.request.auction_id, reason=type(error).__name__)
            body += wire.error(error)
        finally:
            if answer.task.done():
                self._watcher.cancel()
            else:
                await _cancel(answer.task, self._watcher)
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _cancel_when_gone(receive: Receive, task: asyncio.Task[AnswerResult]) -> None:
    """Cancel the answer when the client closes the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _own_address(request: HttpRequest) -> str:
    """Return the address that the request came to; it begins the click links where no public address is configured.

    Raises:
        BadRequest: if the Host header is not a host name.
    """
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise BadRequest("Host", host, "send a host name, or set the server's public address")
    return f"{request.scope['scheme']}://{host}"


def extras(result: AnswerResult) -> dict[str, Any]:
    """Return the objects `ads` and `auction`, which every API's answer has in addition."""
    auction = {"auction_id": result.request.auction_id}
    return {"ads": result.ads, "auction": auction | ({"withheld": result.withheld} if result.withheld else {})}


def token_counts(result: AnswerResult) -> tuple[int, int]:
    """Return the tokens of prompt and answer; for an answer that was cut off, 0 and the deltas of its text."""
    completed = result.completed
    return (completed.prompt_tokens, completed.tokens) if completed else (0, result.written)
