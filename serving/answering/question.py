"""A question to the router: the fields of OpenAI's request that it accepts, its own `ads` object, and the checked form.

Plain records; `serving.http.chat_request` decodes and checks them. What goes beyond one plain text is passed on to a
model server (`serving.http.relay`), whose request keeps the fields as the client sent them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from mechanism.types import Profile


class Part(msgspec.Struct, frozen=True):
    """One part of a message; text, or what only a relay takes."""

    type: Literal["text", "image_url", "input_audio", "file", "refusal"]
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One message of the conversation. `developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None

    def text(self) -> str:
        """Return the content as one string."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content or ())


class ProfileFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The user's profile as the caller gives it; used only with consent."""

    age: str = ""
    gender: str = ""
    occupation: str = ""
    location: str = ""
    interests: list[str] = []
    history: list[str] = []


class AdsFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `ads` object: the placement of the answer, its reader, and the limits on ads in it.

    `enabled` False requests an answer without ads. `max_ads` bounds the links, `conversation_ads` those of the whole
    conversation, `turns_between_ads` asks for answers without ads between two with them. `tmax_ms` bounds the time;
    `floor_micros` is the lowest bid, in micros of `currency`. `user_id` and `profile` are used only with `consent`.
    `conversation_id` keeps a conversation on one model version while two serve, and enters no record. `blocked_*` are
    the publisher's exclusions, `user_blocked_*` the reader's. A conversation that holds one of `blocked_terms` gets no
    ads; `strict` lets weaker signs of a sensitive topic keep ads away. With `help_lines`, an answer on self-harm or
    acute danger ends with the help lines of `country`.
    """

    enabled: bool = True
    placement: str = ""
    category: str = ""
    country: str = ""
    language: str = ""
    currency: str = ""
    user_id: str = ""
    conversation_id: str = ""
    consent: bool = False
    profile: ProfileFields = ProfileFields()
    max_ads: int | None = None
    tmax_ms: int | None = None
    conversation_ads: int | None = None
    turns_between_ads: int | None = None
    floor_micros: int = 0
    blocked_categories: list[str] = []
    blocked_advertisers: list[str] = []
    user_blocked_categories: list[str] = []
    user_blocked_advertisers: list[str] = []
    blocked_terms: list[str] = []
    strict: bool = False
    help_lines: bool = False


class StreamOptions(msgspec.Struct, frozen=True):
    """OpenAI's options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """The format of the answer; others than text are a relay's."""

    type: Literal["text", "json_object", "json_schema"]


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request body.

    The fields from `top_p` to `prompt_cache_key` are accepted for existing clients and have no effect on an answer with
    ads; those after them, and `n` above 1, ask for more than one plain text and are a relay's.
    """

    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    seed: int | None = None
    response_format: ResponseFormat | None = None
    ads: AdsFields = AdsFields()
    temperature: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


@dataclass(frozen=True, slots=True)
class Question:
    """A checked request.

    `query` is the last message (x), `turns` the messages before it as (role, text), with the router's own links
    replaced by their titles; all texts are cleaned. Where the conversation ends with another message than the user's,
    such as the beginning of the answer, that one is the last turn and `query` is empty. `profile` is None without
    consent. `shown_before` are the numbers of sponsored links in each earlier answer, oldest first, `shown_tokens` the
    tokens of all of them. `stop` are the sequences that end the answer.
    """

    request: ChatRequest
    query: str = field(repr=False)
    turns: tuple[tuple[str, str], ...] = field(repr=False)
    profile: Profile | None = field(repr=False)
    shown_before: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    shown_tokens: tuple[str, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The reader's messages, oldest first."""
        earlier = (text for role, text in self.turns if role == "user")
        return (*earlier, self.query) if self.query else tuple(earlier)

    @property
    def recent(self) -> str:
        """The reader's last three messages as one text, for keywords and the search by words."""
        return "\n".join(self.asked[-3:])


def with_placement(question: Question, placement: str) -> Question:
    """Return the question on another placement."""
    ads = msgspec.structs.replace(question.request.ads, placement=placement)
    return replace(question, request=msgspec.structs.replace(question.request, ads=ads))
