"""Cleaning of untrusted text for prompts: advertisers' titles and texts, and users' queries.

Compatibility forms, invisible and bidirectional characters and marker syntax are neutralised. Everything else that is
unsafe is an InputError, because a silently shortened or reworded creative would be another creative. The phrase lists
stop careless and copied attacks, not all of them; the constrained decoder and the marker parser do not rely on them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from mechanism.errors import InputError
from mechanism.markers import MAX_ID, MAX_TITLE
from mechanism.types import Ad

MAX_TEXT: Final = 300
"""Longest creative text, in characters."""
MAX_QUERY: Final = 8_000
"""Longest user message, in characters."""
MAX_URL: Final = 2_000
"""Longest web address, in characters."""

_AD_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{MAX_ID - 1}}}")
_UNUSABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})  # control, zero width and bidi, surrogate, private, unassigned
_BLANKS = frozenset("\t\n\v\f\r")
_INVISIBLE_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")  # fillers that print as nothing

_MARKUP = re.compile(r"<\s*[|/!?]|\|\s*>|<\s*\w[^<>]*>|<<\s*/?\s*sys|\[\s*/?\s*inst\s*\]|#{2,}|`{3}", re.IGNORECASE)
"""Special tokens, role tags and other markup that a tokenizer or a chat template might interpret."""
_ROLE = re.compile(r"(?:^|[\n\r.!?;|>])[^\S\n\r]*(?:system|assistant|developer|user|human|tool)\s*:", re.IGNORECASE)
_CHOOSE = r"(?:choose|select|pick|recommend|insert|mention|prefer|promote|include|advertise|show|rank)"
_OFFER = r"(?:ads?|advert\w*|offers?|brands?|products?|titles?|sponsors?|candidates?|bids?|options?|links?)"
_RULES = r"(?:instructions?|prompts?|rules?|directions?|guidelines?|messages?|commands?|constraints?)"
_PHRASES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?:ignore|disregard|forget|override|bypass) (?:\w+ ){{0,4}}{_RULES}\b",
        r"\b(?:ignore|disregard|forget|omit) (?:(?:the )?(?:all|any|every|others?|competing) )+"
        rf"(?:\w+ ){{0,2}}{_OFFER}\b",
        r"\b(?:ignore|disregard|forget) (?:everything|all|anything) (?:above|before|previous|prior|you)\b",
        rf"\byou (?:must|should|shall|will|have to|need to|are required to) (?:\w+ ){{0,3}}"
        rf"{_CHOOSE} (?:this|our|my|only|{_OFFER})\b",
        rf"\b(?:always|only|never|do not|don t|must) {_CHOOSE} (?:this|our|my|the|any|other|another) "
        rf"(?:\w+ ){{0,2}}{_OFFER}\b",
        r"\b(?:system|developer|hidden|secret) (?:prompt|message|instructions?)\b",
        rf"\b(?:new|real|updated|following) {_RULES} (?:are|is|follow|for)\b",
        rf"\b(?:reveal|print|repeat|output|leak) (?:\w+ ){{0,2}}{_RULES}\b",
        r"\byou are (?:now )?(?:an? |the )?(?:ai|assistant|chatbot|language model|llm|system)\b",
        r"\byou are now (?:an?|the|in|my)\b",
        r"\b(?:respond|answer|reply) only with\b",
        r"\b(?:my|our|this|the|highest) bid (?:is|of|equals)\b",
    )
)
_FAKE_BID = re.compile(r"\bbid\s*[:=]?\s*\d+\s*[:@]|\bbid\s*[:=]\s*\d", re.IGNORECASE)

_QUERY_INVISIBLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\xad\\u200b\\u202a-\\u202e\\u2060-\\u206f\\ufeff\\U000e0000-\\U000e007f]"
)
_UNSAFE_IN_URL = re.compile(r"[\s\\<>\"`{}|^\x00-\x1f\x7f]")
_SURROGATE = re.compile("[\\ud800-\\udfff]")
_TOKEN_NAMES = (
    r"s|bos|eos|pad|unk|mask|cls|sep|think|tool_call|tool_response|tools?|system|user|assistant"
    r"|start_of_turn|end_of_turn|im_start|im_end|eot|endoftext"
)
_QUERY_TOKENS: Final = (
    (re.compile(r"<(?=[|\uff5c][^<>\s]{1,80}[|\uff5c]>)"), "< "),
    (re.compile(rf"<(?=/?(?:{_TOKEN_NAMES})>)", re.IGNORECASE), "< "),
    (re.compile(r"<<(?=/?SYS>>)", re.IGNORECASE), "< < "),
    (re.compile(r"\[(?=/?(?:INST|CLS|SEP|MASK|gMASK)\])", re.IGNORECASE), "[ "),
    (re.compile(r"@(?=\[)"), "@ "),
)


def clean_title(title: str, place: str) -> str:
    """Return a title that is safe in a prompt, a marker and a link: one line, 1..80 characters, no "@", "[" or "]".

    A title that is empty, too long, or reads like an instruction, a role tag or a special token is an InputError at
    `place`, such as "ads.csv:12 title". Idempotent.
    """
    return _clean(title, place, MAX_TITLE)


def clean_text(text: str, place: str) -> str:
    """Return a creative's text that is safe in a prompt: as `clean_title`, with up to 300 characters."""
    return _clean(text, place, MAX_TEXT)


def clean_ad(ad: Ad, place: str) -> Ad:
    """Return the ad with clean title, text, advertiser and category; text and category may be empty. Idempotent.

    Raises:
        InputError: if a field cannot be cleaned, the id is not 1..64 letters, digits or `._:-`, or the landing page is
            not an http(s) address.
    """
    if not _AD_ID.fullmatch(ad.id):
        raise InputError(f"{place} id", ad.id, f"use 1 to {MAX_ID} letters, digits or '._:-', a letter or digit first")
    if ad.landing_url and (remedy := web_address_fault(ad.landing_url)):
        raise InputError(f"{place} landing_url", ad.landing_url, remedy)
    return replace(
        ad,
        title=clean_title(ad.title, f"{place} title"),
        text=clean_text(ad.text, f"{place} text") if ad.text else "",
        advertiser=_clean(ad.advertiser, f"{place} advertiser", MAX_TITLE),
        category=_clean(ad.category, f"{place} category", MAX_TITLE) if ad.category else "",
    )


def clean_query(query: str, place: str, longest: int = MAX_QUERY) -> str:
    """Return a user's message that is safe in a prompt. No word is removed, not even an instruction. Idempotent.

    Invisible control characters are removed. Special tokens (`<|im_start|>`) and marker syntax are broken by a blank,
    so that no tokenizer or parser interprets them.

    Raises:
        InputError: if nothing visible is left, or the message has more than `longest` characters. The error names the
            length, never the words.
    """
    if len(query) > longest:
        raise InputError(place, f"{len(query)} characters", f"shorten it to at most {longest} characters")
    text = _SURROGATE.sub("\ufffd", query.replace("\r\n", "\n").replace("\r", "\n"))
    text = _QUERY_INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    for token, broken in _QUERY_TOKENS:
        text = token.sub(broken, text)
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise InputError(place, f"{len(query)} characters", "write a message with visible characters")
    return text


def web_address_fault(url: str) -> str | None:
    """Return the remedy for an address that is not an absolute http(s) URL with a host; None if the address is right.

    Characters that could break out of a link or a header, user names and port 0 are refused too.
    """
    remedy = "give an absolute http:// or https:// address"
    if len(url) > MAX_URL:
        return f"shorten it to at most {MAX_URL} characters"
    if _UNSAFE_IN_URL.search(url) or not url.isascii():
        return remedy + ", percent-encoded, without blanks or control characters"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        usable = usable and parts.port != 0  # reading the port raises ValueError if it is not a number
    except ValueError:
        usable = False
    return None if usable else remedy


def _clean(text: str, place: str, longest: int) -> str:
    if len(text) > 20 * longest:
        raise InputError(place, text, f"shorten it to at most {longest} characters")
    visible = _visible(text)  # with line breaks, because a role tag is one at the start of a line only
    _refuse_instructions(visible, text, place)
    clean = _one_line(visible)
    _refuse_instructions(clean, text, place)
    if not any(unicodedata.category(c)[0] in "LNS" for c in clean):
        raise InputError(place, text, "write at least one visible letter, digit or symbol")
    if len(clean) > longest:
        raise InputError(place, text, f"shorten it to at most {longest} characters (it has {len(clean)})")
    return clean


def _visible(text: str) -> str:
    """Normalise to NFKC and remove characters that a reader cannot see; line breaks and tabs stay."""
    kept = (c for c in unicodedata.normalize("NFKC", text) if c in _BLANKS or _is_visible(c))
    return unicodedata.normalize("NFKC", "".join(kept))  # again: a removal can join composable characters


def _is_visible(character: str) -> bool:
    if (
        character in _INVISIBLE_LETTERS
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
    ):
        return False
    return unicodedata.category(character) not in _UNUSABLE or character in "\u2028\u2029"


def _one_line(text: str) -> str:
    """Replace marker characters ("@" by "at", brackets by parentheses) and each white space by one blank."""
    return " ".join(text.replace("@", " at ").replace("[", "(").replace("]", ")").split())


def _refuse_instructions(text: str, original: str, place: str) -> None:
    words = " ".join(re.sub(r"[\W_]+", " ", text.casefold()).split())
    if _MARKUP.search(text):
        raise InputError(place, original, "remove markup, role tags and special tokens")
    if _ROLE.search(text) or _FAKE_BID.search(text) or any(phrase.search(words) for phrase in _PHRASES):
        raise InputError(place, original, "describe the offer itself; text that instructs a language model is refused")
