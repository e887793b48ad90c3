"""`/v1/responses` in its text form: OpenAI's newer format around the same running answer as a chat completion."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp

from serving.answering.rendering import VisibleDelta
from serving.answering.result import AnswerRequest, AnswerResult
from serving.errors import as_api_error
from serving.http.answers import extras, respond, token_counts
from serving.http.auth import Gate
from serving.http.bodies import HttpRequest
from serving.http.chat import ASKERS
from serving.http.chat_request import question_of
from serving.http.documents import documented
from serving.http.responses_request import ResponsesRequest, as_chat, decode_responses_request, places
from serving.router import Router

_encode = msgspec.json.Encoder().encode


def responses_routes(router: Router, gate: Gate) -> list[HTTPRouteHandler]:
    """Create the handler of responses."""
    model, settings = router.context.model, router.settings
    succeeded = router.metrics.requests.labels("/v1/responses", "200")

    @post("/v1/responses", status_code=200, opt=documented(ResponsesRequest, answer="A response with `ads`."))
    async def responses(request: HttpRequest) -> ASGIApp:
        """Answer a conversation in the format of OpenAI's responses; the answer may hold labelled sponsored links."""
        arrived = asyncio.get_running_loop().time()
        caller = await gate.caller(request, *ASKERS, anonymous=True)
        asked = decode_responses_request(await request.body(), model)
        question = question_of(as_chat(asked), settings, "input", places(asked))
        wire = lambda answer: ResponsesWire(answer, model, asked)  # noqa: E731
        response = await respond(router, request, question, caller, arrived, wire)
        succeeded.inc()
        return response

    return [responses]


class ResponsesWire:
    """A `response`, or the stream of its events, numbered in order."""

    def __init__(self, request: AnswerRequest, model: str, asked: ResponsesRequest) -> None:
        self._request, self._model, self._asked = request, model, asked
        self._number = 0
        self._text: list[str] = []
        self._item_id = f"msg_{request.auction_id}"

    def whole(self, result: AnswerResult, content: str) -> bytes:
        """Encode the `response` with the additional objects `ads` and `auction`."""
        return _encode(self._ended(result, content))

    def begin(self) -> bytes:
        """Return the events that open the response, its message and the message's text."""
        opened = self._response("in_progress", [], None)
        item = {"type": "message", "id": self._item_id, "status": "in_progress", "role": "assistant", "content": []}
        return b"".join(
            (
                self._event("response.created", {"response": opened}),
                self._event("response.in_progress", {"response": opened}),
                self._event("response.output_item.added", {"output_index": 0, "item": item}),
                self._event("response.content_part.added", self._place() | {"part": _part("")}),
            )
        )

    def delta(self, delta: VisibleDelta) -> bytes:
        """Return the event of a delta; one that is a sponsored link carries it as `ad`."""
        self._text.append(delta.content)
        ad = {} if delta.ad is None else {"ad": delta.ad}
        return self._event("response.output_text.delta", self._place() | {"delta": delta.content, "logprobs": []} | ad)

    def end(self, result: AnswerResult) -> bytes:
        """Return the events that close text, message and response."""
        content = "".join(self._text)
        ended = self._ended(result, content)
        done = self._place() | {"text": content, "logprobs": []}
        return b"".join(
            (
                self._event("response.output_text.done", done),
                self._event("response.content_part.done", self._place() | {"part": _part(content)}),
                self._event("response.output_item.done", {"output_index": 0, "item": ended["output"][0]}),
                self._event(f"response.{ended['status']}", {"response": ended}),
            )
        )

    def error(self, error: Exception) -> bytes:
        """Return the API's error event."""
        failure = as_api_error(error)
        return self._event("error", {"code": failure.code, "message": failure.message, "param": failure.param})

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._number} | fields)
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _ended(self, result: AnswerResult, content: str) -> dict[str, Any]:
        whole = result.finish_reason == "stop"
        status = "completed" if whole else "incomplete"
        item = {"type": "message", "id": self._item_id, "status": status, "role": "assistant"}
        read, written = token_counts(result)
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }
        response = self._response(status, [item | {"content": [_part(content)]}], usage)
        reason = None if whole else {"reason": "max_output_tokens"}
        return response | {"incomplete_details": reason} | extras(result)

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        asked = self._asked
        return {
            "id": f"resp_{self._request.auction_id}",
            "object": "response",
            "created_at": self._request.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self._model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": None,
            "truncation": "disabled",
            "usage": usage,
            "user": asked.user,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
