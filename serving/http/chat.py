"""`/v1/chat/completions` and `/v1/models`: OpenAI's chat format around a running answer."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp

from serving.accounts.keys import Role
from serving.answering.question import ChatRequest
from serving.answering.rendering import VisibleDelta
from serving.answering.result import AnswerRequest, AnswerResult
from serving.errors import ApiError, sse_error
from serving.http.answers import extras, respond, token_counts
from serving.http.auth import Gate
from serving.http.bodies import HttpRequest, decode_object
from serving.http.chat_request import decode_chat_request, is_served, question_of
from serving.http.documents import documented
from serving.http.idempotency import refuse_key
from serving.http.relay import beyond_text, relayed
from serving.router import Router

ASKERS = (Role.ADMIN, Role.PUBLISHER)
_encode = msgspec.json.Encoder().encode


def chat_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handlers of completions and of the model list."""
    model, settings = router.context.model, router.settings
    succeeded = router.metrics.requests.labels("/v1/chat/completions", "200")

    @post("/v1/chat/completions", status_code=200, opt=documented(ChatRequest, answer="A chat completion with `ads`."))
    async def completions(request: HttpRequest) -> ASGIApp:
        """Answer a conversation; the answer may hold labelled sponsored links."""
        arrived = asyncio.get_running_loop().time()
        caller = await gate.caller(request, *ASKERS, anonymous=True)
        body = await request.body()
        asked = decode_chat_request(body, model)
        beyond = beyond_text(asked)
        if beyond is not None:
            refuse_key(request)
            response = await relayed(router, asked, decode_object(body), beyond, arrived)
        else:
            question = question_of(asked, settings)
            response = await respond(router, request, question, caller, arrived, lambda a: ChatWire(a, model))
        succeeded.inc()
        return response

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


class ChatWire:
    """A `chat.completion`, or a stream of `chat.completion.chunk` events.

    A chunk that is a sponsored link carries it as `ad`; the last chunk before `[DONE]` carries all `ads` and the
    `auction`. With `include_usage`, all chunks but the last have a usage of null.
    """

    def __init__(self, request: AnswerRequest, model: str) -> None:
        self._request, self._model = request, model
        options = request.question.request.stream_options
        self._counts = options is not None and options.include_usage
        self._frame = _encode(self._envelope("chat.completion.chunk"))[:-1]
        self._head = b"data: " + self._frame + b',"choices":[{"index":0,"delta":'
        null = b',"usage":null' if self._counts else b""
        self._tail = b',"logprobs":null,"finish_reason":null}]' + null

    def whole(self, result: AnswerResult, content: str) -> bytes:
        """Encode a `chat.completion` with the additional objects `ads` and `auction`."""
        message = {"role": "assistant", "content": content, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": result.finish_reason}
        body = self._envelope("chat.completion") | {"choices": [choice], "usage": _usage(result)}
        return _encode(body | extras(result))

    def begin(self) -> bytes:
        """Return the chunk with the role."""
        return self._head + b'{"role":"assistant","content":""}' + self._tail + b"}\n\n"

    def delta(self, delta: VisibleDelta) -> bytes:
        """Return the chunk of a delta."""
        chunk = self._head + b'{"content":' + _encode(delta.content) + b"}" + self._tail
        return chunk + (b"}\n\n" if delta.ad is None else b',"ad":' + _encode(delta.ad) + b"}\n\n")

    def end(self, result: AnswerResult) -> bytes:
        """Return the last chunk, the chunk with the usage where it is wanted, and `[DONE]`."""
        more = _encode(extras(result))[1:]
        end = b'{},"logprobs":null,"finish_reason":' + _encode(result.finish_reason) + b"}],"
        body = self._head + end + (b'"usage":null,' if self._counts else b"") + more + b"\n\n"
        if self._counts:
            usage = b',"choices":[],"usage":' + _encode(_usage(result)) + b","
            body += b"data: " + self._frame + usage + more + b"\n\n"
        return body + b"data: [DONE]\n\n"

    def error(self, error: Exception) -> bytes:
        """Return OpenAI's error object as an event."""
        return sse_error(error)

    def _envelope(self, kind: str) -> dict[str, Any]:
        request = self._request
        identity = {"id": f"chatcmpl-{request.auction_id}", "object": kind, "created": request.created}
        return identity | {"model": self._model}


def _usage(result: AnswerResult) -> dict[str, int]:
    prompt, written = token_counts(result)
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def _model_card(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "llm-auction"}
