"""Decode and check the request body of `/v1/chat/completions`; its records are `serving.answering.question`'s.

Every refusal names the field, the value and the remedy. A field that the router cannot honour is refused and not
ignored, except for those that `ChatRequest` names: they do not change what an answer may hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from mechanism.sanitize import MAX_QUERY, clean_query
from mechanism.types import Profile
from serving.answering.question import AdsFields, ChatRequest, Message, ProfileFields, Question
from serving.answering.rendering import own_links, without_links
from serving.errors import ApiError, BadRequest
from serving.http.bodies import decode_body
from serving.settings import ServeSettings

DEFAULT_MODEL = "default"
"""A model name that every router accepts, for the model that it serves."""
MOST_ADS = 10
MOST_TURNS = 1_000
LONGEST_MS = 600_000
HIGHEST_FLOOR = 10**12
LONGEST_PLACEMENT = 64
"""Click tokens carry the placement and have to stay short."""
HOTTEST = 2
"""Highest temperature, as OpenAI's."""
MOST_TOKENS = 1_000_000
MOST_STOPS = 4
LONGEST_STOP = 200
_ROLES = {"developer": "system"}
_CURRENCY = re.compile("[A-Z]{3}")


_BODY = msgspec.json.Decoder(ChatRequest)


def is_served(name: str, model: str) -> bool:
    """Whether a request for the model `name` is answered by a router that serves `model`."""
    return name in (model, DEFAULT_MODEL)


def decode_chat_request(body: bytes, model: str) -> ChatRequest:
    """Decode a request for the served `model` and check its fields; its messages are `question_of`'s."""
    request = decode_body(body, _BODY)
    check_fields(request, model)
    return request


def check_fields(request: ChatRequest, model: str) -> None:
    """Check the fields beside the messages.

    Raises:
        ApiError: 404 for another model than the served one.
        BadRequest: for values out of range.
    """
    if not is_served(request.model, model):
        message = f"model: {request.model[:80]!r}: this server serves {model!r}: use that name or {DEFAULT_MODEL!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    if request.seed is not None and not -(2**63) <= request.seed < 2**63:
        raise BadRequest("seed", request.seed, "give a whole number of at most 64 bits")
    if request.temperature is not None and not 0 <= request.temperature <= HOTTEST:
        raise BadRequest("temperature", request.temperature, f"give a number from 0 to {HOTTEST}")
    for name, tokens in (("max_tokens", request.max_tokens), ("max_completion_tokens", request.max_completion_tokens)):
        if tokens is not None and not 1 <= tokens <= MOST_TOKENS:
            raise BadRequest(name, tokens, f"give a whole number from 1 to {MOST_TOKENS}")
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise BadRequest("max_tokens", request.max_tokens, "give max_completion_tokens alone")
    stops = _stops(request)
    if len(stops) > MOST_STOPS or not all(0 < len(stop) <= LONGEST_STOP for stop in stops):
        remedy = f"give at most {MOST_STOPS} sequences of 1 to {LONGEST_STOP} characters"
        raise BadRequest("stop", request.stop, remedy)
    _check_ads(request.ads)


def question_of(
    request: ChatRequest, settings: ServeSettings, whole: str = "messages", places: Sequence[str] = ()
) -> Question:
    """Return a request for one plain text as a question, its messages checked and cleaned.

    Where the messages come from the body of another API, `whole` is the field that holds them, and `places` are those
    of their texts.

    Raises:
        BadRequest: for messages that cannot be answered.
    """
    messages = request.messages
    if not messages or len(messages) > settings.max_messages:
        raise BadRequest(whole, f"{len(messages)} messages", f"send 1 to {settings.max_messages} messages")
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    if not users:
        raise BadRequest(whole, f"{len(messages)} messages", "send a message of role 'user'")
    places = places or [f"messages[{i}].content" for i in range(len(messages))]
    texts = [_text(message, place) for message, place in zip(messages, places, strict=True)]
    length = sum(map(len, texts))
    if length > settings.max_characters:
        remedy = f"shorten the conversation to {settings.max_characters} characters"
        raise BadRequest(whole, f"{length} characters", remedy)
    clean = [
        _clean(without_links(text), places[i], MAX_QUERY if i in users else settings.max_characters)
        for i, text in enumerate(texts)
    ]
    if not clean[users[-1]]:
        clean_query(texts[users[-1]], places[users[-1]])  # raises: no word of it is visible
    ends = len(messages) if users[-1] < len(messages) - 1 else len(messages) - 1
    turns = tuple((_ROLES.get(m.role, m.role), t) for m, t in zip(messages[:ends], clean, strict=False) if t)
    shown = [own_links(m.text()) for m in messages if m.role == "assistant"]
    counts, tokens = tuple(map(len, shown)), tuple(token for one in shown for token in one)
    query = "" if ends == len(messages) else clean[-1]
    return Question(request, query, turns, _known_profile(request.ads), counts, _stops(request), tokens)


def _text(message: Message, place: str) -> str:
    """Return a message's text.

    Raises:
        BadRequest: if there is none; only an assistant's message may be empty.
    """
    if message.content is None and message.role != "assistant":
        raise BadRequest(place, None, "give a text")
    for i, part in enumerate(message.content if isinstance(message.content, list) else ()):
        if part.text is None:
            raise BadRequest(f"{place}[{i}].text", None, "give this field: it is required")
    return message.text()


def _stops(request: ChatRequest) -> tuple[str, ...]:
    if request.stop is None:
        return ()
    return (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)


def _known_profile(ads: AdsFields) -> Profile | None:
    """Return the profile that may be used: None without consent, and None where every field is empty."""
    given = ads.profile
    if not ads.consent or given == ProfileFields():
        return None
    return Profile(
        id=ads.user_id,
        age=_clean(given.age, "ads.profile.age"),
        gender=_clean(given.gender, "ads.profile.gender"),
        occupation=_clean(given.occupation, "ads.profile.occupation"),
        location=_clean(given.location, "ads.profile.location"),
        interests=tuple(_clean(v, "ads.profile.interests") for v in given.interests),
        history=tuple(_clean(v, "ads.profile.history") for v in given.history),
    )


def _check_ads(ads: AdsFields) -> None:
    if ads.max_ads is not None and not 0 <= ads.max_ads <= MOST_ADS:
        raise BadRequest("ads.max_ads", ads.max_ads, f"give a whole number from 0 to {MOST_ADS}")
    for name in ("conversation_ads", "turns_between_ads"):
        if (limit := getattr(ads, name)) is not None and not 0 <= limit <= MOST_TURNS:
            raise BadRequest(f"ads.{name}", limit, f"give a whole number from 0 to {MOST_TURNS}")
    if ads.tmax_ms is not None and not 1 <= ads.tmax_ms <= LONGEST_MS:
        raise BadRequest("ads.tmax_ms", ads.tmax_ms, f"give milliseconds from 1 to {LONGEST_MS}")
    if not 0 <= ads.floor_micros <= HIGHEST_FLOOR:
        raise BadRequest("ads.floor_micros", ads.floor_micros, f"give a whole number from 0 to {HIGHEST_FLOOR}")
    if ads.currency and not _CURRENCY.fullmatch(ads.currency):
        raise BadRequest("ads.currency", ads.currency, "give an ISO 4217 code such as USD")
    if ads == _NO_FIELDS:
        return
    given = ads.profile
    lists: dict[str, list[str]] = {"profile.interests": given.interests, "profile.history": given.history}
    lists |= {name: getattr(ads, name) for name in _BLOCKED}
    for name, entries in lists.items():
        most = 20 if name.startswith("profile") else 200
        if len(entries) > most:
            raise BadRequest(f"ads.{name}", f"{len(entries)} entries", f"give at most {most}")
    scalars = {f"profile.{f}": getattr(given, f) for f in ("age", "gender", "occupation", "location")}
    scalars |= {
        name: getattr(ads, name)
        for name in ("user_id", "conversation_id", "placement", "category", "country", "language")
    }
    listed = {f"{name}[{i}]": value for name, entries in lists.items() for i, value in enumerate(entries)}
    for place, value in (scalars | listed).items():
        # A line break would let a profile add lines of its own to the prompt.
        most = LONGEST_PLACEMENT if place == "placement" else 200
        if value and (len(value) > most or not value.isprintable()):
            raise BadRequest(f"ads.{place}", value, f"give at most {most} printable characters on one line")


_NO_FIELDS = AdsFields()
_BLOCKED = (
    *("blocked_categories", "blocked_advertisers", "blocked_terms"),
    *("user_blocked_categories", "user_blocked_advertisers"),
)


def _clean(text: str, place: str, longest: int = MAX_QUERY) -> str:
    return clean_query(text, place, longest) if text.strip() else ""
