"""The request body of `/v1/chat/completions`: OpenAI's fields that the router takes, and its own `ads` object.

Every refusal names the field, the value and the remedy. A field that the router cannot honour is refused rather than
ignored, except for sampling fields: the deployed policy's own sampling is part of the auction.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from mechanism.sanitize import clean_query
from mechanism.types import Profile
from serving.errors import ApiError, bad_request
from serving.settings import ServeSettings
from serving.visible import without_links

MOST_ADS = 10


class TextPart(msgspec.Struct, frozen=True):
    """One part of a message; only text can be read."""

    type: Literal["text"]
    text: str


class Message(msgspec.Struct, frozen=True):
    """One message of the conversation. `developer` is OpenAI's newer name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ProfileFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the caller tells about the user; used only with consent."""

    age: str = ""
    gender: str = ""
    occupation: str = ""
    location: str = ""
    interests: list[str] = []
    history: list[str] = []


class AdsFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The `ads` object: `enabled` False asks for an answer without any ad; `max_ads` bounds the links."""

    user: str = ""
    profile: ProfileFields = ProfileFields()
    consent: bool = False
    max_ads: int | None = None
    enabled: bool = True

    def known_profile(self) -> Profile | None:
        """The profile that may be used: None without consent, or when nothing is told."""
        told = self.profile
        if not self.consent or told == ProfileFields():
            return None
        return Profile(
            id=self.user,
            age=_clean(told.age, "ads.profile.age"),
            gender=_clean(told.gender, "ads.profile.gender"),
            occupation=_clean(told.occupation, "ads.profile.occupation"),
            location=_clean(told.location, "ads.profile.location"),
            interests=tuple(_clean(v, "ads.profile.interests") for v in told.interests),
            history=tuple(_clean(v, "ads.profile.history") for v in told.history),
        )


class StreamOptions(msgspec.Struct, frozen=True):
    """OpenAI's options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """Only plain text can be asked for."""

    type: Literal["text"]


class ChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body. The fields from `temperature` on are accepted for the sake of existing clients and change nothing."""

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

    def query(self) -> str:
        """The last user message, clean: x."""
        return clean_query(self.messages[-1].text(), f"messages[{len(self.messages) - 1}].content")

    def turns(self) -> tuple[tuple[str, str], ...]:
        """The messages before the query as (role, text), clean and with our own links back to their titles."""
        roles = {"developer": "system"}
        return tuple(
            (roles.get(m.role, m.role), _clean(without_links(m.text()), f"messages[{i}].content"))
            for i, m in enumerate(self.messages[:-1])
        )


def parse_chat_request(body: bytes, model: str, settings: ServeSettings) -> ChatRequest:
    """Decodes and checks a request for the served `model`. Raises ApiError (400, 404) in OpenAI's terms."""
    try:
        raw = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}: send one JSON object", code="invalid_json") from error
    try:
        request = msgspec.convert(raw, ChatRequest)
    except msgspec.ValidationError as error:
        raise _named(error, raw) from error
    if request.model != model:
        message = f"model: {request.model[:80]!r}: this server serves {model!r}, see /v1/models"
        raise ApiError(404, message, param="model", code="model_not_found")
    _check_messages(request, settings)  # raises InputError for words that nothing readable is left of
    _check_ads(request.ads)
    request.ads.known_profile()
    if request.n not in (None, 1):
        raise bad_request("n", request.n, "leave n at 1: there is one generation per answer")
    if request.seed is not None and not -(2**63) <= request.seed < 2**63:
        raise bad_request("seed", request.seed, "give a whole number of at most 64 bits")
    return request


def _check_messages(request: ChatRequest, settings: ServeSettings) -> None:
    messages = request.messages
    if not messages or len(messages) > settings.max_messages:
        raise bad_request("messages", f"{len(messages)} messages", f"send 1 to {settings.max_messages} messages")
    if messages[-1].role != "user":
        raise bad_request(f"messages[{len(messages) - 1}].role", messages[-1].role, "end with a message of role 'user'")
    length = sum(len(m.text()) for m in messages)
    if length > settings.max_characters:
        remedy = f"shorten the conversation to {settings.max_characters} characters"
        raise bad_request("messages", f"{length} characters", remedy)
    request.query()
    request.turns()


def _check_ads(ads: AdsFields) -> None:
    if ads.max_ads is not None and not 0 <= ads.max_ads <= MOST_ADS:
        raise bad_request("ads.max_ads", ads.max_ads, f"give a whole number from 0 to {MOST_ADS}")
    told = ads.profile
    for field in ("interests", "history"):
        if len(getattr(told, field)) > 20:
            raise bad_request(f"ads.profile.{field}", f"{len(getattr(told, field))} entries", "give at most 20")
    scalars = {f: getattr(told, f) for f in ("age", "gender", "occupation", "location")} | {"user": ads.user}
    listed = {f"{f}[{i}]": v for f in ("interests", "history") for i, v in enumerate(getattr(told, f))}
    for field, value in (scalars | listed).items():
        place = "ads.user" if field == "user" else f"ads.profile.{field}"
        # A line break would let a profile write its own lines into the prompt.
        if len(value) > 200 or not value.isprintable():
            raise bad_request(place, value, "give at most 200 printable characters on one line")


def _named(error: msgspec.ValidationError, raw: Any) -> ApiError:
    """msgspec says what is wrong and where; OpenAI's shape and our rule want the field and its value beside it."""
    text = str(error)
    found = re.search(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", text, re.DOTALL)
    what, path = (found["what"], found["path"] or "") if found else (text, "")
    unknown = re.search(r"unknown field `(.+)`", what)
    missing = re.search(r"missing required field `(.+)`", what)
    if unknown:
        path = f"{path}.{unknown[1]}"
        remedy = "leave it out: it is not supported here"
    elif missing:
        return bad_request(f"{path}.{missing[1]}".lstrip("."), None, "give this field: it is required")
    elif path.endswith(".role"):
        remedy = "use one of system, developer, user, assistant"
    elif path.endswith(".type"):
        remedy = "only 'text' is supported"
    else:
        remedy = what[:1].lower() + what[1:]
    return bad_request(path.lstrip(".") or "body", _value_at(raw, path), remedy)


def _value_at(raw: Any, path: str) -> Any:
    for name, index in re.findall(r"\.?([^.\[\]]+)|\[(\d+)\]", path):
        if index and isinstance(raw, list) and int(index) < len(raw):
            raw = raw[int(index)]
        elif name and isinstance(raw, dict) and name in raw:
            raw = raw[name]
        else:
            return raw
    return raw


def _clean(text: str, place: str) -> str:
    return clean_query(text, place) if text.strip() else ""
