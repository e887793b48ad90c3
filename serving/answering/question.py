"""A question to the router: the fields of OpenAI's request that it accepts, its own `ads` object, and the checked form.

Plain records; `serving.http.chat_request` decodes and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from mechanism.types import Profile


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message; only text is supported."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, frozen=True):
    """One message of the conversation. `developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def text(self) -> str:
        """Return the content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


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
    """The format of the answer; only plain text is supported."""

    type: Literal["text"]


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The request body. The fields from `temperature` on are accepted for existing clients and have no effect."""

    model: str
    messages: list[Message]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = 1
    seed: int | None = None
    response_format: ResponseFormat | None = None
    ads: AdsFields = AdsFields()
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A checked request.

    `query` is the last user message (x), `turns` the messages before it as (role, text), with the router's own links
    replaced by their titles; all texts are cleaned. `profile` is None without consent.
    `shown_before` are the sponsored links in each earlier answer, oldest first.
    """

    request: ChatRequest
    query: str = field(repr=False)
    turns: tuple[tuple[str, str], ...] = field(repr=False)
    profile: Profile | None = field(repr=False)
    shown_before: tuple[int, ...] = ()

    @property
    def asked(self) -> tuple[str, ...]:
        """The reader's messages, oldest first."""
        return (*(text for role, text in self.turns if role == "user"), self.query)

    @property
    def recent(self) -> str:
        """The reader's last three messages as one text, for keywords and the search by words."""
        return "\n".join(self.asked[-3:])
