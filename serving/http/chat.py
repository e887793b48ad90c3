"""`/v1/chat/completions` and `/v1/models`: OpenAI's wire format around a live answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import structlog
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from serving import tracing
from serving.accounts.keys import Role
from serving.answering.answer import LiveAnswer
from serving.answering.question import ChatRequest
from serving.answering.rendering import VisibleDelta
from serving.errors import ApiError, as_api_error, bad_request, sse_error
from serving.http.auth import Gate
from serving.http.chat_request import parse_chat_request
from serving.http.documents import documented
from serving.router import Router

log = structlog.get_logger(__name__)

ASKERS = (Role.ADMIN, Role.PUBLISHER)
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_encode = msgspec.json.Encoder().encode


def chat_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Handlers for completions and the model list."""
    model, settings = router.room.model, router.settings
    requests = router.metrics.requests
    ok = requests.labels("/v1/chat/completions", "200")

    @post("/v1/chat/completions", status_code=200, opt=documented(ChatRequest, answer="A chat completion with `ads`."))
    async def completions(request: Request[Any, Any, Any]) -> ASGIApp:
        """Answer a conversation; the answer may hold labelled sponsored links."""
        arrived = asyncio.get_running_loop().time()
        caller = await gate.caller(request, *ASKERS, anonymous=True)
        question = parse_chat_request(await request.body(), model, settings)
        if router.draining:
            raise ApiError(503, "the server is going down: ask again, another one will answer", code="draining")
        live = router.open(question, settings.public_url or _own_address(request), arrived, caller.key_id)
        with tracing.continued(request.headers):
            writing = router.begin(live)
        gone = asyncio.create_task(_cancel_when_gone(request.receive, writing))
        try:
            if question.request.stream:
                first = await live.outlet.take()
            else:
                await asyncio.wait((writing,))
                content = "".join([delta.content for delta in live.outlet.whole()])
        except BaseException:
            await _stop(writing, gone)
            raise
        ok.inc()
        if question.request.stream:
            return _Stream(live, model, first, writing, gone)
        gone.cancel()
        return _Json(_completion(live, model, content))

    @get("/v1/models", opt=documented(answer="The served model."))
    async def models(request: Request[Any, Any, Any]) -> dict[str, Any]:
        """The models that can be asked: one."""
        await gate.caller(request, *Role, anonymous=True)
        return {"object": "list", "data": [_model_card(model)]}

    @get("/v1/models/{name:path}", opt=documented(answer="The served model."))
    async def one_model(request: Request[Any, Any, Any], name: FromPath[str]) -> dict[str, Any]:
        """One model by its name."""
        await gate.caller(request, *Role, anonymous=True)
        if name.lstrip("/") != model:
            raise ApiError(404, f"model: this server serves {model!r} alone", "model", "model_not_found")
        return _model_card(model)

    return [completions, models, one_model]


class _Json:
    """A whole completion, already encoded."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = str(len(self._body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


class _Stream:
    """The same as server-sent `chat.completion.chunk` events, those that are ready together in one write. A chunk that
    is a sponsored link has it as `ad`; the last chunk before `[DONE]` carries all `ads` and the `auction`."""

    def __init__(
        self,
        live: LiveAnswer,
        model: str,
        first: list[VisibleDelta],
        writing: asyncio.Task[None],
        gone: asyncio.Task[None],
    ) -> None:
        self._live, self._first, self._writing, self._gone = live, first, writing, gone
        frame = _encode(_frame(live, model, "chat.completion.chunk"))[:-1]
        self._head = b"data: " + frame + b',"choices":[{"index":0,"delta":'
        self._tail = b',"logprobs":null,"finish_reason":null}]'
        self._frame = frame

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        options = self._live.question.request.stream_options
        body = self._head + b'{"role":"assistant","content":""}' + self._tail + b"}\n\n"
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            taken = self._first
            while taken:
                body += b"".join([self._chunk(delta) for delta in taken])
                if not self._writing.done():  # else its end is ready as well, and goes with it
                    ready, body = body, b""
                    await send({"type": "http.response.body", "body": ready, "more_body": True})
                taken = await self._live.outlet.take()
            if not self._writing.done():
                await asyncio.wait((self._writing,))
            body += self._last(options is not None and options.include_usage)
        except Exception as error:
            if as_api_error(error).status == 500:
                log.error("stream failed", auction_id=self._live.auction_id, reason=type(error).__name__)
            body += sse_error(error)
        finally:
            if self._writing.done():
                self._gone.cancel()
            else:
                await _stop(self._writing, self._gone)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _chunk(self, delta: VisibleDelta) -> bytes:
        chunk = self._head + b'{"content":' + _encode(delta.content) + b"}" + self._tail
        return chunk + (b"}\n\n" if delta.ad is None else b',"ad":' + _encode(delta.ad) + b"}\n\n")

    def _last(self, usage_wanted: bool) -> bytes:
        live = self._live
        extras = _encode(_extras(live))[1:]
        end = b'{},"logprobs":null,"finish_reason":' + _encode(live.finish_reason) + b"}],"
        body = self._head + end + extras + b"\n\n"
        if usage_wanted:
            usage = b',"choices":[],"usage":' + _encode(_usage(live)) + b","
            body += b"data: " + self._frame + usage + extras + b"\n\n"
        return body + b"data: [DONE]\n\n"


async def _cancel_when_gone(receive: Receive, writing: asyncio.Task[None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    writing.cancel()


async def _stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _own_address(request: Request[Any, Any, Any]) -> str:
    """The address that the request came to: what click links begin with where none is configured."""
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise bad_request("Host", host, "send a host name, or set the server's public address")
    return f"{request.scope['scheme']}://{host}"


def _completion(live: LiveAnswer, model: str, content: str) -> bytes:
    """A `chat.completion` with the extra objects `ads` and `auction`."""
    message = {"role": "assistant", "content": content, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": live.finish_reason}
    frame = _frame(live, model, "chat.completion")
    return _encode(frame | {"choices": [choice], "usage": _usage(live)} | _extras(live))


def _frame(live: LiveAnswer, model: str, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{live.auction_id}", "object": kind, "created": live.created, "model": model}


def _extras(live: LiveAnswer) -> dict[str, Any]:
    return {"ads": live.ads, "auction": {"auction_id": live.auction_id}}


def _usage(live: LiveAnswer) -> dict[str, int]:
    prompt, written = (live.done.prompt_tokens, live.done.tokens) if live.done else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _model_card(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "llm-auction"}
