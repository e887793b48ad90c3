"""Undo disguises of text: what a language model, or a reader, may read in it although the words are not written.

Look-alikes come from Unicode's confusables (package `confusable-homoglyphs`).
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from urllib.parse import unquote

from confusable_homoglyphs import confusables

_LEET = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b", "9": "g"}
_OTHER_LEET = {**_LEET, "1": "l", "6": "g", "2": "z"}
_SIGNS = str.maketrans({"@": "a", "$": "s", "!": "i", "|": "l", "+": "t", "€": "e", "£": "l", "¡": "i", "(": "c"})
_SPACED = re.compile(r"(?:(?<=\s)|^)(?:\w[\s.\-_*·•|/]+){3,}\w(?=\s|$|[.,!?])")
_APART = re.compile(r"(?<!\w)(?:[^\W\d_][ .\-_*·•|/~+,]{1,3}){5,}[^\W\d_](?!\w)")
_INSIDE = re.compile(r"(?<=\w)[.\-_*·•|/'’+~^]+(?=\w)")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}={0,2}")
_HEX = re.compile(
    r"(?:[0-9a-fA-F]{2}[\s:]?){6,}|(?:\\x[0-9a-fA-F]{2}){3,}|(?:\\u[0-9a-fA-F]{4}){3,}|(?:0x[0-9a-fA-F]{2}\s?){3,}"
)
_CODES = re.compile(r"(?:\b\d{2,3}[\s,;.\-]+){5,}\d{2,3}\b")
_BASE32 = re.compile(r"[A-Z2-7]{16,}={0,6}")
_BINARY = re.compile(r"(?:[01]{7,8}\s?){3,}")
_MIXED_DIGITS = re.compile(r"(?i)[a-z@$!|+]*[0-9@$!|+]+[a-z][a-z0-9@$!|+]*|[a-z]+[0-9@$!|+]+[a-z0-9@$!|+]*")
_ODD_MARKS = re.compile(r"[a-zA-Z][\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
_PHONETIC = re.compile(r"[\u0250-\u02af\u1d00-\u1d7f]")
_LEET_WORD = re.compile(
    r"(?i)(?<![\w.])(?:[a-z]+[0134579@$!|]+[a-z]+[a-z0-9@$!|]*|[0134579@$!|]+[a-z]+[0134579@$!|][a-z0-9@$!|]*)"
)
_LEET_START = re.compile(r"\b[013457][a-z]{3,}\b")
_NUMERAL_LETTER = re.compile(r"[\u2160-\u2188][^\W\d_]|[^\W\d_][\u2160-\u2188]")
_LETTERLIKE = (
    *("MODIFIER LETTER", "LATIN SUBSCRIPT", "SUPERSCRIPT LATIN", "LATIN LETTER SMALL CAPITAL", "MATHEMATICAL"),
    *("CIRCLED LATIN", "NEGATIVE CIRCLED LATIN", "SQUARED LATIN", "NEGATIVE SQUARED LATIN", "PARENTHESIZED LATIN"),
    *("FULLWIDTH LATIN", "REGIONAL INDICATOR", "TAG LATIN", "DOUBLE-STRUCK", "SCRIPT CAPITAL", "SCRIPT SMALL"),
    *("BLACK-LETTER", "CANADIAN SYLLABICS", "CHEROKEE LETTER", "LISU LETTER", "BRAILLE PATTERN"),
)
"""Beginnings of the names of characters that only look like letters."""
HANGUL = re.compile("[\uac00-\ud7a3\u3040-\u30ff]")
"""Letters that Unicode decomposes although they carry no accent."""
_BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u2800\u3164\uffa0"
"""Characters that count as letters or accents and print as nothing."""
LEAST_LETTERLIKE, LEAST_LEET, LEAST_MARKS = 2, 2, 3
LEAST_READABLE = 6
DECKED = 0.6
"""Share of a word's letters that carry accents from which it is a disguise; natural words stay below it."""


def hidden_characters(text: str) -> str:
    """Return the kind of disguise that a text's characters are; empty for plain text."""
    for before, character in zip(" " + text, text, strict=False):
        if character in "\u200d\ufe0f" and unicodedata.category(before) in ("So", "Sk", "Mn"):
            continue  # joins the parts of an emoji
        hides = unicodedata.category(character) in ("Cf", "Co") or character in _BLANK_LETTERS
        if hides or "\ufe00" <= character <= "\ufe0f":
            return "invisible characters"
    if len(_ODD_MARKS.findall(unicodedata.normalize("NFC", text))) >= LEAST_MARKS:
        return "accents that no language writes"
    if _APART.search(text):
        return "letters apart from each other"
    if any(map(_is_decked, re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text)))):
        return "accents on nearly every letter"
    if _NUMERAL_LETTER.search(text):
        return "numerals in place of letters"
    if len(_PHONETIC.findall(text)) >= LEAST_LETTERLIKE:
        return "phonetic letters"
    decomposed = unicodedata.normalize("NFD", text)
    if re.search(r"[\u0300-\u036f]{3,}", decomposed):
        return "stacked accents"
    if sum(unicodedata.name(c, "").startswith(_LETTERLIKE) for c in text) >= LEAST_LETTERLIKE:
        return "letters in the form of symbols"
    leet = len(_LEET_WORD.findall(text))
    if leet and leet + len(_LEET_START.findall(text)) >= LEAST_LEET:
        return "digits and signs in place of letters"
    for word in re.findall(r"[^\W\d_]+", unicodedata.normalize("NFC", text)):
        if len({_script(c) for c in word} - {""}) > 1:
            return "letters of several alphabets in one word"
    return ""


def readings(text: str) -> Iterator[str]:
    """Yield the text and what it may mean once its disguises are undone."""
    plain = unicodedata.normalize("NFKC", text)
    visible = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    latin = "".join(_look_alikes().get(c, c) for c in unicodedata.normalize("NFKD", visible))
    yield visible
    yield from {latin, *(_unleet(latin, digits) for digits in (_LEET, _OTHER_LEET))}
    joined = _SPACED.sub(lambda found: re.sub(r"[\s.\-_*·•|/]+", "", found[0]) + " ", _unleet(latin, _LEET))
    yield joined
    yield _INSIDE.sub("", latin)
    yield codecs.encode(latin, "rot13")
    yield latin[::-1]
    yield " ".join(word[::-1] for word in latin.split())
    for changed in (unquote(visible), unquote(unquote(visible)), html.unescape(visible)):
        if changed != visible:
            yield changed
    yield from decoded(visible)


def decoded(text: str) -> Iterator[str]:
    """Yield the readable texts that are encoded in a text: base64, hexadecimal, binary."""
    for found in _BASE64.finditer(text + " " + re.sub(r"\s+", "", text)):
        raw = found[0].rstrip("=")
        with_padding = raw + "=" * (-len(raw) % 4)
        for altchars in (b"+/", b"-_"):
            try:
                yield from _readable(base64.b64decode(with_padding, altchars, validate=True))
            except (binascii.Error, ValueError):
                continue
    for found in _HEX.finditer(text):
        digits = re.sub(r"0x|\\x|\\u00|[\s:\\u]", "", found[0])
        if len(digits) % 2 == 0:
            try:
                yield from _readable(bytes.fromhex(digits))
            except ValueError:
                continue
    for found in _CODES.finditer(text):
        codes = [int(code) for code in re.findall(r"\d+", found[0])]
        yield from _readable(bytes(code for code in codes if code < 256))
    for found in _BASE32.finditer(text):
        raw = found[0].rstrip("=")
        try:
            yield from _readable(base64.b32decode(raw + "=" * (-len(raw) % 8)))
        except (binascii.Error, ValueError):
            continue
    for found in _BINARY.finditer(text):
        yield from _readable(bytes(int(octet, 2) for octet in re.findall(r"[01]{7,8}", found[0])))


def _is_decked(word: str) -> bool:
    accented = sum(len(unicodedata.normalize("NFD", c)) > 1 and not HANGUL.match(c) for c in word)
    return accented >= LEAST_MARKS and accented > DECKED * len(word)


def skeleton(text: str) -> str:
    """Return the form in which names are compared: look-alikes and leetspeak undone, letters and digits alone."""
    latin = "".join(
        _look_alikes().get(c, c) for c in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text))
    )
    folded = _unleet(latin, _LEET).casefold()
    return "".join(c for c in folded if c.isalnum())


def _readable(data: bytes) -> Iterator[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    letters = sum(c.isalpha() or c.isspace() for c in text)
    if len(text) >= LEAST_READABLE and all(c.isprintable() or c.isspace() for c in text) and letters >= 0.8 * len(text):
        yield text


def _unleet(text: str, digits: dict[str, str]) -> str:
    table = str.maketrans(digits)
    return _MIXED_DIGITS.sub(lambda found: found[0].translate(_SIGNS).translate(table), text)


def _script(character: str) -> str:
    name = unicodedata.name(character, "").split(" ")[0]
    return name if name in ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "HEBREW") else ""


@cache
def _look_alikes() -> dict[str, str]:
    """Return the ASCII letter or digit that each other character may be taken for."""
    found: dict[str, str] = {}
    for character, entries in confusables.confusables_data.items():
        if len(character) != 1 or character.isascii():
            continue
        for entry in entries:
            if len(entry["c"]) == 1 and entry["c"].isascii() and entry["c"].isalpha():
                found[character] = entry["c"]
                break
    return found
