"""The request body of `/v1/responses` in its text form, turned into the chat request that the router answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from serving.answering.question import AdsFields, ChatRequest, Message
from serving.errors import BadRequest
from serving.http.bodies import decode_body
from serving.http.chat_request import MOST_TOKENS, check_fields

REMEDY = "leave it out: text in and text out is supported; for tools, images and JSON use /v1/chat/completions"


class InputPart(msgspec.Struct, frozen=True):
    """One part of an input message; text alone."""

    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(msgspec.Struct, frozen=True):
    """One message of the conversation; output items of earlier responses are messages as well."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputPart]
    type: Literal["message"] = "message"


class TextFormat(msgspec.Struct, frozen=True):
    """The format of the text; plain text alone."""

    type: Literal["text"] = "text"


class TextOptions(msgspec.Struct, frozen=True):
    """Options of the text."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request body of `/v1/responses`.

    Nothing is stored: `previous_response_id` and `conversation` are refused, and a conversation is sent whole in
    `input`. The fields from `top_p` on are accepted for existing clients and have no effect.
    """

    model: str
    input: str | list[InputMessage]
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    text: TextOptions | None = None
    ads: AdsFields = AdsFields()
    tools: list[dict[str, Any]] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    prompt: Any = None
    top_p: float | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None
    stream_options: dict[str, Any] | None = None


_BODY = msgspec.json.Decoder(ResponsesRequest)
_BEYOND_TEXT = ("tools", "previous_response_id", "conversation", "background", "top_logprobs", "include", "prompt")


def decode_responses_request(body: bytes, model: str) -> ResponsesRequest:
    """Decode a request and refuse what goes beyond text.

    Raises:
        BadRequest: for tools, stored conversations, background answers and the like.
    """
    request = decode_body(body, _BODY)
    for name in _BEYOND_TEXT:
        if value := getattr(request, name):
            raise BadRequest(name, value, REMEDY)
    tokens = request.max_output_tokens
    if tokens is not None and not 1 <= tokens <= MOST_TOKENS:
        raise BadRequest("max_output_tokens", tokens, f"give a whole number from 1 to {MOST_TOKENS}")
    check_fields(_fields(request, []), model)
    return request


def as_chat(request: ResponsesRequest) -> ChatRequest:
    """Return the chat request of the same conversation."""
    given = request.input
    messages = [] if request.instructions is None else [Message("system", request.instructions)]
    if isinstance(given, str):
        return _fields(request, [*messages, Message("user", given)])
    return _fields(request, [*messages, *(Message(one.role, _text(one)) for one in given)])


def places(request: ResponsesRequest) -> list[str]:
    """Return where the texts of the chat request's messages are in the body."""
    given = request.input
    own = ["input"] if isinstance(given, str) else [f"input[{i}].content" for i in range(len(given))]
    return own if request.instructions is None else ["instructions", *own]


def _fields(request: ResponsesRequest, messages: list[Message]) -> ChatRequest:
    return ChatRequest(
        model=request.model,
        messages=messages,
        stream=bool(request.stream),
        temperature=request.temperature,
        max_completion_tokens=request.max_output_tokens,
        ads=request.ads,
    )


def _text(message: InputMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)
