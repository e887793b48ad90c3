"""The request body of `/v1/chat/completions`, decoded and checked; its records are `serving.answering.question`'s.

Every refusal names the field, the value and the remedy. A field that the router cannot honour is refused rather than
ignored, except for sampling fields: the deployed policy's own sampling is part of the auction.
"""

from __future__ import annotations

import re

import msgspec

from mechanism.sanitize import clean_query
from mechanism.types import Profile
from serving.answering.question import AdsFields, ChatRequest, ProfileFields, Question
from serving.answering.rendering import without_links
from serving.errors import ApiError, bad_request
from serving.http.bodies import decode_body
from serving.settings import ServeSettings

MOST_ADS = 10
LONGEST_MS = 600_000
HIGHEST_FLOOR = 10**12
LONGEST_PLACEMENT = 64
"""A click token carries it, and has to stay short."""
_CURRENCY = re.compile("[A-Z]{3}")


_BODY = msgspec.json.Decoder(ChatRequest)


def parse_chat_request(body: bytes, model: str, settings: ServeSettings) -> Question:
    """Decodes and checks a request for the served `model`. Raises ApiError (400, 404) in OpenAI's terms."""
    request = decode_body(body, _BODY)
    if request.model != model:
        message = f"model: {request.model[:80]!r}: this server serves {model!r}, see /v1/models"
        raise ApiError(404, message, param="model", code="model_not_found")
    if request.n not in (None, 1):
        raise bad_request("n", request.n, "leave n at 1: there is one generation per answer")
    if request.seed is not None and not -(2**63) <= request.seed < 2**63:
        raise bad_request("seed", request.seed, "give a whole number of at most 64 bits")
    _check_ads(request.ads)
    texts = _texts(request, settings)
    roles = ("system" if m.role == "developer" else m.role for m in request.messages)
    turns = tuple((r, t) for r, t in zip(roles, texts[:-1], strict=False))
    return Question(request, texts[-1], turns, _known_profile(request.ads))


def _texts(request: ChatRequest, settings: ServeSettings) -> list[str]:
    """The messages' texts, clean."""
    messages = request.messages
    if not messages or len(messages) > settings.max_messages:
        raise bad_request("messages", f"{len(messages)} messages", f"send 1 to {settings.max_messages} messages")
    last = len(messages) - 1
    if messages[last].role != "user":
        raise bad_request(f"messages[{last}].role", messages[last].role, "end with a message of role 'user'")
    texts = [message.text() for message in messages]
    length = sum(map(len, texts))
    if length > settings.max_characters:
        remedy = f"shorten the conversation to {settings.max_characters} characters"
        raise bad_request("messages", f"{length} characters", remedy)
    earlier = [_clean(without_links(text), f"messages[{i}].content") for i, text in enumerate(texts[:-1])]
    return [*earlier, clean_query(texts[last], f"messages[{last}].content")]


def _known_profile(ads: AdsFields) -> Profile | None:
    """The profile that may be used: None without consent, or when nothing is told."""
    told = ads.profile
    if not ads.consent or told == ProfileFields():
        return None
    return Profile(
        id=ads.user_id,
        age=_clean(told.age, "ads.profile.age"),
        gender=_clean(told.gender, "ads.profile.gender"),
        occupation=_clean(told.occupation, "ads.profile.occupation"),
        location=_clean(told.location, "ads.profile.location"),
        interests=tuple(_clean(v, "ads.profile.interests") for v in told.interests),
        history=tuple(_clean(v, "ads.profile.history") for v in told.history),
    )


def _check_ads(ads: AdsFields) -> None:
    if ads.max_ads is not None and not 0 <= ads.max_ads <= MOST_ADS:
        raise bad_request("ads.max_ads", ads.max_ads, f"give a whole number from 0 to {MOST_ADS}")
    if ads.tmax_ms is not None and not 1 <= ads.tmax_ms <= LONGEST_MS:
        raise bad_request("ads.tmax_ms", ads.tmax_ms, f"give milliseconds from 1 to {LONGEST_MS}")
    if not 0 <= ads.floor_micros <= HIGHEST_FLOOR:
        raise bad_request("ads.floor_micros", ads.floor_micros, f"give a whole number from 0 to {HIGHEST_FLOOR}")
    if ads.currency and not _CURRENCY.fullmatch(ads.currency):
        raise bad_request("ads.currency", ads.currency, "give an ISO 4217 code such as USD")
    if ads == _SILENT:
        return
    told = ads.profile
    lists: dict[str, list[str]] = {"profile.interests": told.interests, "profile.history": told.history}
    lists |= {name: getattr(ads, name) for name in _BLOCKED}
    for name, entries in lists.items():
        most = 20 if name.startswith("profile") else 200
        if len(entries) > most:
            raise bad_request(f"ads.{name}", f"{len(entries)} entries", f"give at most {most}")
    scalars = {f"profile.{f}": getattr(told, f) for f in ("age", "gender", "occupation", "location")}
    scalars |= {
        name: getattr(ads, name)
        for name in ("user_id", "conversation_id", "placement", "category", "country", "language")
    }
    listed = {f"{name}[{i}]": value for name, entries in lists.items() for i, value in enumerate(entries)}
    for place, value in (scalars | listed).items():
        # A line break would let a profile write its own lines into the prompt.
        most = LONGEST_PLACEMENT if place == "placement" else 200
        if value and (len(value) > most or not value.isprintable()):
            raise bad_request(f"ads.{place}", value, f"give at most {most} printable characters on one line")


_SILENT = AdsFields()
_BLOCKED = ("blocked_categories", "blocked_advertisers", "user_blocked_categories", "user_blocked_advertisers")


def _clean(text: str, place: str) -> str:
    return clean_query(text, place) if text.strip() else ""
