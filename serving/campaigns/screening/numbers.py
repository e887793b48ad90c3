"""Telephone numbers in digits, in words of five languages, and in a mixture of both."""

from __future__ import annotations

import re
import unicodedata

import phonenumbers

from serving.campaigns.screening.disguises import readings
from serving.campaigns.screening.word_lists import word_list
from serving.lexicon import plain

REGIONS = ("US", "GB", "DE", "ES", "FR", "CN", "MX", "IN")
LEAST_DIGITS = 7
_DIGITS = re.compile(r"(?:\+?\d[\s().\-/–]*){7,}")
_PRICE_OR_YEAR = re.compile(r"(?:[$€£¥]\s?)?\d{1,3}(?:[.,]\d{3})+(?:[.,]\d{2})?|(?:19|20)\d\d\s?[-–/]\s?(?:19|20)\d\d")
_SIZES = re.compile(r"(?<![\d+])\d\d(?:[ ,/]{1,2}\d\d){2,}(?!\d)")
_HAN_DIGITS = re.compile(r"[零〇一二三四五六七八九幺两]{2,}")
LEAST_WORDS = 2
"""A number with fewer words in it is found by its digits, or is none."""


def has_phone(text: str) -> bool:
    """Whether a text holds a telephone number."""
    rest = without_prices(text)
    if _is_spoken(rest):
        return True
    if sum(map(str.isdigit, unicodedata.normalize("NFKC", rest))) < LEAST_DIGITS:
        return False
    for reading in (rest, next(iter(readings(rest)))):
        if any(phonenumbers.PhoneNumberMatcher(reading, region).has_next() for region in REGIONS):
            return True
        if has_digits(reading):
            return True
    return False


def has_digits(text: str) -> bool:
    """Whether a text holds as many digits in a row as a telephone number has."""
    return _DIGITS.search(text) is not None


def without_prices(text: str) -> str:
    """Return a text without prices, spans of years and rising sizes, which look like telephone numbers."""
    return _SIZES.sub(_unless_rising, _PRICE_OR_YEAR.sub(" ", text))


def _unless_rising(found: re.Match[str]) -> str:
    sizes = [int(size) for size in re.findall(r"\d+", found[0])]
    return " " if sizes == sorted(set(sizes)) else found[0]


def _is_spoken(text: str) -> bool:
    """Whether words for digits, and digits between them, are as long as a telephone number in one run."""
    digits = words = 0
    for token in _HAN_DIGITS.sub(lambda found: f" {found[0]} ", plain(text)).split():
        if token.isdecimal():
            digits += len(token)
        elif _HAN_DIGITS.fullmatch(token):
            digits, words = digits + len(token), words + LEAST_WORDS
        elif token in word_list("ones") or token in word_list("tens"):
            digits, words = digits + (2 if token in word_list("tens") else 1), words + 1
        elif token not in word_list("between"):
            digits = words = 0
        if digits >= LEAST_DIGITS and words >= LEAST_WORDS:
            return True
    return False
