"""The rules of the gate: phrases by topic in English, German, Spanish, French and Chinese (`data/lexicon/`).

A message is read in its own language where its function words show which that is, else in all five: "die" kills in
English and is an article in German.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib import resources
from typing import Any

import re2
import yaml

from serving.auction.sensitive.topics import Topic
from serving.lexicon import HAN, Lexicon, expression, lines, plain

LANGUAGES = ("en", "de", "es", "fr", "zh")
HARMLESS = "harmless"
LEAST_WORDS, MARGIN = 2, 2.0
"""A language is known by this many of its function words, and this many times as many as the next one's."""
_FUNCTION_WORDS = {
    "en": "the a an of and to is are was i you my me it that this for with on what how do does did can should have has "
    "be not don t s m in at from or your we they he she his her who which when why where if there im am will would",
    "de": "der die das den dem des ein eine einen einem einer und ist sind war ich du er sie es wir ihr mein meine "
    "meinen meinem meiner nicht mit fur auf von zu zum zur wie was kann soll habe hat im bei oder als auch wenn wo "
    "warum mich mir sich noch nach welche welcher welches gibt bin am um man uber ohne in an so",
    "es": "el la los las un una unos unas de del y es son era yo tu mi mis me se que por para con en como no al lo le "
    "su sus o pero mas muy si cuando donde cual quien hay tengo tiene puedo puede estoy esta este esto ha he ya sin",
    "fr": "le la les l un une des du de d et est sont etait je j tu il elle on nous vous mon ma mes me m se que qu qui "
    "pour avec dans sur pas ne n ce c cette comment quel quelle quels quelles au aux ou mais plus si suis ai a son sa "
    "ses y en sans quand",
}
_USES = Counter(word for words in _FUNCTION_WORDS.values() for word in set(words.split()))
_WORDS = {
    language: frozenset(word for word in words.split() if _USES[word] == 1)
    for language, words in _FUNCTION_WORDS.items()
}
"""Words that tell a language from the three others; those that two share are left out."""


class Rules:
    """The phrases of all languages, compiled once."""

    def __init__(self) -> None:
        self._lexicons: dict[str, Lexicon] = {}
        self._harmless: dict[str, Any] = {}
        for language in LANGUAGES:
            phrases = _read(language)
            self._harmless[language] = _any_of(phrases.pop(HARMLESS))
            self._lexicons[language] = Lexicon({Topic(topic).value: found for topic, found in phrases.items()})

    def topics(self, message: str) -> frozenset[Topic]:
        """Return the topics that phrases of a message name."""
        text = plain(message)
        languages = languages_of(text)
        for language in languages:
            text = self._harmless[language].sub(" _ ", text)
        found = frozenset[str]().union(*(self._lexicons[language].labels(text) for language in languages))
        return frozenset(map(Topic, found))


@cache
def shared_rules() -> Rules:
    """Return the rules of this process; compiling them takes a third of a second."""
    return Rules()


def is_english(message: str) -> bool:
    """Whether a message is surely English, by its function words."""
    return languages_of(plain(message)) == ("en",)


def may_be_english(message: str) -> bool:
    """Whether a message may be English, the language that the encoder reads: a few words rarely show which it is."""
    return all(c.isascii() for c in message if c.isalpha()) and languages_of(plain(message))[0] == "en"


def languages_of(text: str) -> tuple[str, ...]:
    """Return the languages that a text (of `plain`) is read in: all that it may be written in."""
    spoken = [] if not HAN.search(text) else ["zh"]
    counts = {language: 0 for language in _WORDS}
    for word in text.split():
        for language, known in _WORDS.items():
            counts[language] += word in known
    first, second = sorted(counts.values(), reverse=True)[:2]
    if first >= LEAST_WORDS and first >= MARGIN * second:
        return (max(counts, key=lambda language: counts[language]), *spoken)
    return (*_WORDS, *spoken)


def _read(language: str) -> dict[str, tuple[str, ...]]:
    source = resources.files("serving.auction.sensitive") / "data" / "lexicon" / f"{language}.yaml"
    blocks: dict[str, str] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return {label: lines(block) for label, block in blocks.items()}


def _any_of(phrases: tuple[str, ...]) -> Any:
    return re2.compile("|".join(f"(?:{expression(phrase)})" for phrase in phrases))
