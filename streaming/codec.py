"""The encoding of events: JSON, checked when it is written and when it is read. `streaming.events` defines the fields.

`decode` reads every version that was ever written and returns the newest struct. It ignores unknown fields, so that a
producer may be newer than its consumers; it refuses an unknown *version* until the consumer is upgraded.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mechanism.errors import InputError
from streaming.events import AnyEvent, Click, Conversion, Interaction, Judgement
from streaming.former_events import JudgementV1
from streaming.topics import CLICKS, CONVERSIONS, INTERACTIONS, JUDGEMENTS

NEWEST: dict[str, type[AnyEvent]] = {
    INTERACTIONS: Interaction,
    CLICKS: Click,
    CONVERSIONS: Conversion,
    JUDGEMENTS: Judgement,
}
_TOPICS: dict[type, str] = {kind: topic for topic, kind in NEWEST.items()}
_VERSIONS: dict[str, dict[int, type[AnyEvent] | type[JudgementV1]]] = {
    INTERACTIONS: {1: Interaction},
    CLICKS: {1: Click},
    CONVERSIONS: {1: Conversion},
    JUDGEMENTS: {1: JudgementV1, 2: Judgement},
}
_DECODERS: dict[str, dict[int, msgspec.json.Decoder[AnyEvent | JudgementV1]]] = {
    topic: {version: msgspec.json.Decoder(kind) for version, kind in kinds.items()}
    for topic, kinds in _VERSIONS.items()
}
_CURRENT = {topic: versions[max(versions)] for topic, versions in _DECODERS.items()}
PERSONAL = "reader"
"""The field of an event that holds everything about its reader."""
_AT = re.compile(r"(?P<fault>.*?)(?: - at `(?P<path>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_encode = msgspec.json.Encoder().encode


class EventError(InputError):
    """Bytes that are no event of their topic. The message quotes no text of a reader."""


class _Envelope(msgspec.Struct):
    version: int


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_VERSION = msgspec.json.Decoder(_Envelope)


def topic_of(event: AnyEvent) -> str:
    """Return the topic of an event."""
    return _TOPICS[type(event)]


def encode(event: AnyEvent) -> bytes:
    """Encode an event as JSON.

    The result is decoded once, since the structs' constructors do not check types and ranges; the EventError of
    `decode` propagates.

    Raises:
        EventError: if a field cannot be encoded.
    """
    topic = topic_of(event)
    try:
        data = _encode(event)
    except (ValueError, TypeError, OverflowError) as error:
        raise EventError(f"{topic} event {event.key}", f"<{type(event).__name__}>", str(error)[:200]) from None
    decode(topic, data)
    return data


def decode(topic: str, data: bytes) -> AnyEvent:
    """Decode an event of a topic, at whichever version it was written.

    Raises:
        EventError: if the topic carries no events, or the bytes are no event of the topic at a known version.
    """
    versions = _DECODERS.get(topic)
    if versions is None:
        raise EventError("topic", topic, f"give one of {', '.join(NEWEST)}")
    try:
        return _newest(_CURRENT[topic].decode(data))  # most events have the newest version: one pass instead of two
    except _UNREADABLE:
        pass  # an older version, or a fault: determined below
    try:
        version = _VERSION.decode(data).version
    except msgspec.ValidationError as error:
        refusal = _refused(topic, "event", data, error)
        raise refusal from None
    except _UNREADABLE:
        raise EventError(f"{topic} event", f"<{len(data)} bytes>", "this is not one JSON value in UTF-8") from None
    if version not in versions:
        remedy = f"this program reads version {', '.join(map(str, versions))}: upgrade it, then replay the event"
        raise EventError(f"{topic} event at version", version, remedy)
    try:
        return _newest(versions[version].decode(data))
    except _UNREADABLE as error:
        refusal = _refused(topic, f"event version {version}", data, error)
        raise refusal from None


def kind_of(topic: str, version: int) -> type[AnyEvent] | type[JudgementV1]:
    """Return the struct of a topic's events at a version that `decode` reads."""
    return _VERSIONS[topic][version]


def _newest(event: AnyEvent | JudgementV1) -> AnyEvent:
    return event.upgraded() if isinstance(event, JudgementV1) else event


def _refused(topic: str, what: str, data: bytes, error: Exception) -> EventError:
    matched = _AT.fullmatch(str(error))
    fault, path = (matched["fault"], matched["path"]) if matched else ("not an event", None)
    at = (path or "$").removeprefix("$").removeprefix(".")
    shown = _value(data, path or "$")
    place = f"{topic} {what}" + (f" at {at}" if at else "")
    if at.split(".")[0] == PERSONAL or isinstance(shown, dict | list):
        shown = f"<{type(shown).__name__}>"
    return EventError(place, shown, fault[:1].lower() + fault[1:])


def _value(data: bytes, path: str) -> Any:
    """Return the value at a path such as `$.shown[0].price_micros`; `<type>` if the path cannot be followed."""
    value: Any = None
    try:
        value = msgspec.json.decode(data)
        for name, index in _STEP.findall(path):
            value = value[name] if name else value[int(index)]
    except (KeyError, IndexError, TypeError, *_UNREADABLE):
        return f"<{type(value).__name__}>"
    return value
