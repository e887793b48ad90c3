"""One running answer as a response, complete or streamed; how either is written is an API's `Wire`.

What the socket took is reported to the answer's delivery; with an Idempotency-Key the response is kept for retries.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from litestar.types import ASGIApp, HTTPResponseBodyEvent, Receive, Scope, Send

from mechanism.types import AdId
from serving import tracing
from serving.accounts.idempotency import StoredAnswer
from serving.answering.answer import RunningAnswer
from serving.answering.question import Question
from serving.answering.rendering import VisibleDelta
from serving.answering.result import AnswerRequest, AnswerResult
from serving.errors import ApiError, BadRequest, as_api_error
from serving.http.auth import Caller
from serving.http.bodies import HttpRequest
from serving.http.idempotency import Attempt, begin
from serving.http.publishers import placed
from serving.router import Router

log = structlog.get_logger(__name__)

_EVENT_STREAM = "text/event-stream; charset=utf-8"
_STREAM_HEADERS = [
    (b"content-type", _EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_LAST: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}
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
    caller: Caller,
    arrived: float,
    wire_of: Callable[[AnswerRequest], Wire],
) -> ASGIApp:
    """Begin the answer to a question and return its response: once it is complete, or once its stream has begun.

    A retry of a request with an Idempotency-Key gets the first one's answer. The error that ends an answer before any
    text is raised.

    Raises:
        ApiError: 503 while the server is going down.
    """
    if router.draining:
        raise ApiError(503, "the server is going down: ask again, another router will answer", code="draining")
    base_url, streams = router.settings.public_url or _own_address(request), question.request.stream
    question = await placed(router, caller, question)
    once = await begin(router.idempotency, request, caller)
    if once.stored is not None:
        return _Whole(once.stored, replayed=True)
    try:
        with tracing.continued(request.headers):
            answer = router.begin_answer(question, owner=caller.key_id, base_url=base_url, arrived=arrived)
        answer.delivery.kept = once.claim is not None
    except BaseException:
        await once.release()
        raise
    # With a key the answer is written to its end: the retry of a client that has gone gets it.
    watcher = asyncio.create_task(_watch_client(request.receive, answer, cancels=once.claim is None))
    try:
        first = await answer.deltas.take() if streams else []
        if first:
            return _Stream(answer, wire_of(answer.request), first, watcher, once)
        result = await answer.result()
    except BaseException:
        answer.delivery.end()
        await _cancel(answer.task, watcher)
        await once.release()
        raise
    if streams:  # a stop sequence ended it before any text
        return _Stream(answer, wire_of(answer.request), [], watcher, once)
    content = "".join(delta.content for delta in answer.deltas.take_ready())
    whole = StoredAnswer(200, "application/json", wire_of(answer.request).whole(result, content))
    await once.save(whole)
    return _Delivered(whole, answer, frozenset(result.shown), watcher)


class _Whole:
    """A complete response, already encoded."""

    def __init__(self, answer: StoredAnswer, *, replayed: bool = False) -> None:
        self._answer, self._replayed, self._more = answer, replayed, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        headers = [
            (b"content-type", answer.media_type.encode()),
            (b"content-length", str(len(answer.body)).encode()),
            (b"cache-control", b"no-store"),
            *([(b"idempotency-replayed", b"true")] if self._replayed else []),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": self._more})


class _Delivered(_Whole):
    """A complete response that reports its delivery."""

    def __init__(
        self, whole: StoredAnswer, answer: RunningAnswer, ads: frozenset[AdId], watcher: asyncio.Task[None]
    ) -> None:
        super().__init__(whole)
        self._running, self._ads, self._watcher, self._more = answer, ads, watcher, True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        delivery = self._running.delivery
        try:
            await super().__call__(scope, receive, send)
            delivery.sent(self._ads)
            await _drain(send)
            delivery.drained()
        finally:
            self._watcher.cancel()
            delivery.end()
        await send(_LAST)


class _Stream:
    """A response of server-sent events; deltas that are ready together go in one write."""

    def __init__(
        self,
        answer: RunningAnswer,
        wire: Wire,
        first: list[VisibleDelta],
        watcher: asyncio.Task[None],
        once: Attempt,
    ) -> None:
        self._answer, self._wire, self._first, self._watcher, self._once = answer, wire, first, watcher, once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, wire, deltas, delivery = self._answer, self._wire, self._first, self._answer.delivery
        ads: list[AdId] = []
        body = wire.begin()
        sent: list[bytes] = []
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            while deltas:
                body += b"".join([wire.delta(delta) for delta in deltas])
                ads += [delta.ad.ad_id for delta in deltas if delta.ad is not None]
                if not answer.task.done():  # otherwise the last events are ready, too, and go into the same write
                    ready, body = body, b""
                    sent.append(ready)
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
                    delivery.sent(ads)
                    ads = []
                deltas = await answer.deltas.take()
            body += wire.end(await answer.result())
            # Before the end is sent: a client that has the end does not ask again.
            await self._once.save(StoredAnswer(200, _EVENT_STREAM, b"".join(sent) + body))
        except Exception as error:
            await self._once.release()
            if as_api_error(error).status == 500:
                log.error("http.stream_failed", auction_id=answer.request.auction_id, reason=type(error).__name__)
            body += wire.error(error)
        except BaseException:  # the server cancels what is not sent within its time to drain
            await self._once.release()
            raise
        finally:
            if not answer.task.done():
                delivery.end()
                await _cancel(answer.task, self._watcher)
        try:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            delivery.sent(ads)
            await _drain(send)
            delivery.drained()
        finally:
            self._watcher.cancel()
            delivery.end()
        await send(_LAST)


async def _drain(send: Send) -> None:
    """Wait until the socket has taken everything that was sent, or the client's departure is known."""
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    await asyncio.sleep(0)  # lets `_watch_client` run


async def _watch_client(receive: Receive, answer: RunningAnswer, *, cancels: bool) -> None:
    """Note when the client closes the connection, and cancel the answer unless its retry is to find it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.delivery.gone = True
    if cancels:
        answer.task.cancel()


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
