"""Texts whose words were turned into something else: shifted alphabets, pig Latin, vowels left out, pinyin.

A reader cannot read them in an advertisement, but a language model may.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby

from serving.campaigns.screening.word_lists import word_list

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SHIFTS = [str.maketrans(_ALPHABET, _ALPHABET[n:] + _ALPHABET[:n]) for n in range(1, 26)]
_MIRRORED = str.maketrans(_ALPHABET, _ALPHABET[::-1])
LEAST_COMMON = 2
LEAST_NATO, LEAST_VOWELLESS, LEAST_PINYIN = 4, 3, 6
_VOWELS = frozenset("aeiouyäöüáéíóúàèìòùâêîôûæœå")
_PINYIN = re.compile(
    r"(?:[bpmfdtnlgkhjqxzcsryw]|zh|ch|sh)?(?:[aeiou]|ai|ei|ao|ou|an|en|ang|eng|ong|er|i[aeu]|iao|ian|iang|in|ing|iong"
    r"|u[aeio]|uai|uan|un|uang|v|ve|ue)"
)
_PIG_LATIN = re.compile(r"([a-z]+)-?ay")
_CONSONANTS = re.compile(r"[bcdfghjklmnpqrstvwxyz]{,3}$")
_UBBI = re.compile(r"(?:ub|ob|ib|ag|idig|op)(?=[aeiou])")


def is_turned(text: str) -> bool:
    """Whether a text is nonsense that can be read once its letters or words are turned back."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", text).lower() if unicodedata.category(c) != "Mn")
    words = re.findall(r"[a-z]+(?:-[a-z]+)?", letters)
    spells = _longest_run(word in word_list("spelling") for word in words) >= LEAST_NATO
    if spells or _lacks_vowels(text) or _longest_run(map(_PINYIN.fullmatch, words)) >= LEAST_PINYIN:
        return True
    return _common(letters) < LEAST_COMMON and _turns(letters, words)


def _turns(letters: str, words: list[str]) -> bool:
    turned = [letters[::-1], letters.translate(_MIRRORED), *(letters.translate(table) for table in _SHIFTS)]
    turned += [" ".join(word[::-1] for word in words), " ".join(_UBBI.sub("", word) for word in words)]
    turned.append(" ".join(_out_of_pig_latin(words)))
    least = max(LEAST_COMMON, _common(letters) + 1)
    return any(_common(other) >= least for other in turned)


def _out_of_pig_latin(words: list[str]) -> Iterator[str]:
    """Yield what each word may have been: its last consonants stood first, or "w" was added."""
    for word in words:
        if turned := _PIG_LATIN.fullmatch(word.replace("-", "")):
            rest = turned[1]
            moved = len(_CONSONANTS.search(rest)[0])  # type: ignore[index]
            yield from dict.fromkeys(rest[len(rest) - n :] + rest[: len(rest) - n] for n in range(moved + 1))
            if rest.endswith("w"):
                yield rest[:-1]


def _common(text: str) -> int:
    return sum(word in word_list("common") for word in re.findall(r"[a-z]+", text))


def _longest_run(found: Iterable[object]) -> int:
    """Return the largest number of true values in a row."""
    return max((sum(1 for _ in run) for is_found, run in groupby(found, bool) if is_found), default=0)


def _lacks_vowels(text: str) -> bool:
    """Whether several words have no vowel; abbreviations in capitals do not count."""
    words = [word for word in re.findall(r"[^\W\d_]{3,}", text) if not word.isupper() and word.isascii()]
    without = sum(not _VOWELS & set(word.lower()) for word in words)
    return without >= LEAST_VOWELLESS and 2 * without >= len(words)
