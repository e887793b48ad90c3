"""`/v1/chat/completions` and `/v1/models`: OpenAI's wire format around a running answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import structlog
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPResponseBodyEvent, Receive, Scope, Send

from mechanism.types import AdId
from serving import tracing
from serving.accounts.idempotency import StoredAnswer
from serving.accounts.keys import Role
from serving.answering.answer import RunningAnswer
from serving.answering.question import ChatRequest
from serving.answering.rendering import VisibleDelta
from serving.answering.result import AnswerRequest, AnswerResult
from serving.errors import ApiError, BadRequest, as_api_error, sse_error
from serving.http.auth import Gate
from serving.http.bodies import HttpRequest
from serving.http.chat_request import is_served, parse_chat_request
from serving.http.documents import documented
from serving.http.idempotency import Attempt, begin
from serving.router import Router

log = structlog.get_logger(__name__)

ASKERS = (Role.ADMIN, Role.PUBLISHER)
_EVENT_STREAM = "text/event-stream; charset=utf-8"
_STREAM_HEADERS = [
    (b"content-type", _EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_LAST: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_encode = msgspec.json.Encoder().encode


def chat_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of completions and of the model list."""
    model, settings = router.context.model, router.settings
    succeeded = router.metrics.requests.labels("/v1/chat/completions", "200")

    @post("/v1/chat/completions", status_code=200, opt=documented(ChatRequest, answer="A chat completion with `ads`."))
    async def completions(request: HttpRequest) -> ASGIApp:
        """Answer a conversation; the answer may hold labelled sponsored links.

        Raises:
            ApiError: 503 while the server is going down.
        """
        arrived = asyncio.get_running_loop().time()
        caller = await gate.caller(request, *ASKERS, anonymous=True)
        question = parse_chat_request(await request.body(), model, settings)
        if router.draining:
            raise ApiError(503, "the server is going down: ask again, another router will answer", code="draining")
        base_url = settings.public_url or _own_address(request)
        once = await begin(router.idempotency, request, caller)
        if once.stored is not None:
            succeeded.inc()
            return _Whole(once.stored, replayed=True)
        try:
            with tracing.continued(request.headers):
                answer = router.begin_answer(question, owner=caller.key_id, base_url=base_url, arrived=arrived)
        except BaseException:
            await once.release()
            raise
        # With a key the answer is written to its end: the retry of a client that has gone gets it.
        watcher = asyncio.create_task(_watch_client(request.receive, answer, cancels=once.claim is None))
        try:
            first = await answer.deltas.take() if question.request.stream else []
            if first:
                succeeded.inc()
                return _Stream(answer, model, first, watcher, once)
            result = await answer.result()
        except BaseException:
            answer.delivery.end()
            await _cancel(answer.task, watcher)
            await once.release()
            raise
        succeeded.inc()
        content = "".join(delta.content for delta in answer.deltas.take_ready())
        whole = StoredAnswer(200, "application/json", _completion(result, model, content))
        await once.save(whole)
        return _Delivered(whole, answer, frozenset(result.shown), watcher)

    @get("/v1/models", opt=documented(answer="The served model."))
    async def models(request: HttpRequest) -> dict[str, Any]:
        """List the models: the one that this router serves."""
        await gate.caller(request, *Role, anonymous=True)
        return {"object": "list", "data": [_model_card(model)]}

    @get("/v1/models/{name:path}", opt=documented(answer="The served model."))
    async def one_model(request: HttpRequest, name: FromPath[str]) -> dict[str, Any]:
        """Read one model by its name.

        Raises:
            ApiError: 404 for another model.
        """
        await gate.caller(request, *Role, anonymous=True)
        if not is_served(name.lstrip("/"), model):
            raise ApiError(404, f"model: this server serves {model!r} alone", "model", "model_not_found")
        return _model_card(model)

    return [completions, models, one_model]


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
    """A response of server-sent `chat.completion.chunk` events; deltas that are ready together go in one write.

    A chunk that is a sponsored link carries it as `ad`; the last chunk before `[DONE]` carries all `ads` and the
    `auction`.
    """

    def __init__(
        self,
        answer: RunningAnswer,
        model: str,
        first: list[VisibleDelta],
        watcher: asyncio.Task[None],
        once: Attempt,
    ) -> None:
        self._answer, self._first, self._watcher, self._once = answer, first, watcher, once
        self._frame = _encode(_frame(answer.request, model, "chat.completion.chunk"))[:-1]
        self._head = b"data: " + self._frame + b',"choices":[{"index":0,"delta":'
        self._tail = b',"logprobs":null,"finish_reason":null}]'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer, deltas, delivery = self._answer, self._first, self._answer.delivery
        ads: list[AdId] = []
        body = self._head + b'{"role":"assistant","content":""}' + self._tail + b"}\n\n"
        sent: list[bytes] = []
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            while deltas:
                body += b"".join([self._chunk(delta) for delta in deltas])
                ads += [delta.ad.ad_id for delta in deltas if delta.ad is not None]
                if not answer.task.done():  # otherwise the last chunk is ready, too, and goes into the same write
                    ready, body = body, b""
                    sent.append(ready)
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
                    delivery.sent(ads)
                    ads = []
                deltas = await answer.deltas.take()
            body += self._end(await answer.result())
            # Before the end is sent: a client that has the end does not ask again.
            await self._once.save(StoredAnswer(200, _EVENT_STREAM, b"".join(sent) + body))
        except Exception as error:
            await self._once.release()
            if as_api_error(error).status == 500:
                log.error("http.stream_failed", auction_id=answer.request.auction_id, reason=type(error).__name__)
            body += sse_error(error)
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

    def _chunk(self, delta: VisibleDelta) -> bytes:
        chunk = self._head + b'{"content":' + _encode(delta.content) + b"}" + self._tail
        return chunk + (b"}\n\n" if delta.ad is None else b',"ad":' + _encode(delta.ad) + b"}\n\n")

    def _end(self, result: AnswerResult) -> bytes:
        """Return the last chunk, the chunk with the usage where it is wanted, and `[DONE]`."""
        options = result.request.question.request.stream_options
        extras = _encode(_extras(result))[1:]
        end = b'{},"logprobs":null,"finish_reason":' + _encode(result.finish_reason) + b"}],"
        body = self._head + end + extras + b"\n\n"
        if options is not None and options.include_usage:
            usage = b',"choices":[],"usage":' + _encode(_usage(result)) + b","
            body += b"data: " + self._frame + usage + extras + b"\n\n"
        return body + b"data: [DONE]\n\n"


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


def _completion(result: AnswerResult, model: str, content: str) -> bytes:
    """Encode a `chat.completion` with the additional objects `ads` and `auction`."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": result.finish_reason}
    frame = _frame(result.request, model, "chat.completion")
    return _encode(frame | {"choices": [choice], "usage": _usage(result)} | _extras(result))


def _frame(request: AnswerRequest, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{request.auction_id}", "object": kind, "created": request.created, "model": model}


def _extras(result: AnswerResult) -> dict[str, Any]:
    auction = {"auction_id": result.request.auction_id}
    return {"ads": result.ads, "auction": auction | ({"withheld": result.withheld} if result.withheld else {})}


def _usage(result: AnswerResult) -> dict[str, int]:
    completed = result.completed
    prompt, written = (completed.prompt_tokens, completed.tokens) if completed else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _model_card(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "llm-auction"}
