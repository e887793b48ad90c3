"""The rules that a creative's title and text are screened by; each finding has its place, its rule and a remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources

import yaml

from serving.campaigns.screening.disguises import decoded, hidden_characters, readings
from serving.campaigns.screening.languages import is_unread
from serving.campaigns.screening.numbers import has_digits, has_phone, without_prices
from serving.campaigns.screening.word_games import is_turned
from serving.campaigns.types import Creative
from serving.lexicon import Lexicon, lines, plain

TOP_LEVEL_DOMAINS = (
    "com|net|org|io|info|biz|shop|store|online|site|xyz|top|app|dev|club|live|link|click|page|vip|pro|icu|win|bet|loan"
    "|example|test|invalid|co|me|tv|cc|de|at|ch|fr|es|it|nl|be|uk|us|eu|cn|ru|in|br|mx|pl|tk|ml|ga|cf|gq|ly|gg|ai|hk|tw|jp"
)
"""Ends of the web addresses that creatives and answers are searched for, as an alternation."""
_ADDRESS = re.compile(
    rf"(?i)\b[a-z][a-z0-9+.-]*://|\bwww\s*\.|\b[a-z0-9][a-z0-9-]{{1,62}}\s?(?:\.|\[\.\]|\(\.\)|\(dot\)|\[dot\]|。|．)"
    rf"\s?(?:{TOP_LEVEL_DOMAINS})\b(?![\w-])"
    r"|[\w.+-]+\s?(?:@|\[at\]|\(at\))\s?[\w-]+|(?:^|\s)@\w{2,}|\b(?:\d{1,3}\.){3}\d{1,3}\b|\bmailto:|\btel:"
)
_ROLE = re.compile(
    r"(?i)(?:^|[\s\[({<|>#*\"'.!?;])(?:system|assistant|user|human|developer|tool|function|ai|bot|model|instruction|prompt"
    r"|sistema|asistente|usuario|système|utilisateur|systeme|nutzer|benutzer|assistent|系统|助手|用户)\s*[\])}>|*\"']*\s*[:：=>]"
    r"|<\s*/?\s*[a-z|!?]|[\[{]\s*/?\s*(?:system|inst|assistant|user|end|start|im_)|[{\"']role[\"']?\s*:|#{2,}|`{2,}|-{3,}|={3,}"
    r"|\brole[\"']?\s*[:=]|\b(?:system|assistant|developer|admin)\s+(?:[-–—]|says?\b)|\bQ\s?:.*\bA\s?:|\${2}|\{\{|<!--"
    r"|\b(?:human|user|ai|assistant) turn\b|(?:^|\s)/(?:system|admin|user|assistant)\b"
    r"|[‹«]\s?(?:system|assistant|user)|\w_(?:result|call|message)\s?:"
    r"|\bEND OF\b|\bBEGIN\b|</|\|>|<\||[《【\[]\s*(?:系统|指令|system)"
)


_DOTTED = re.compile(
    r"(?i)\b[a-z0-9-]{2,}[.․。．｡][a-z]{2,}(?:/|\b)(?<!\.js)(?<!\.net)|[a-z0-9]\s?[点點]\s?[a-z]{2,}|\bxn--|\b1?-?8\d\d-[A-Z0-9-]{4,}"
    r"|\b[\w-]+\s*[\[({]\s*(?:dot|punkt|punto|point|at)\s*[\])}]"
)
"""What may be an address with an unusual end, or one in disguise."""
_ESCAPES = re.compile(
    r"(?:%[0-9a-fA-F]{2}){3,}|(?:&#?\w{1,8};){2,}|(?:\\[ux][0-9a-fA-F]{2,4}){2,}|(?:=[0-9A-F]{2}){3,}"
    r"|(?:\\[0-7]{3}){3,}|(?:\b\d{1,3}[-.,; ]\s?){7,}\d{1,3}\b|(?:[.\-·–—•]{1,6}[\s/|]+){5,}"
    r"|(?:\b[ABab]{5}\s?){3,}|\b(?=[0-9a-f]*\d[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"
    r"|(?=[A-Za-z0-9+/_-]*[a-z])(?=[A-Za-z0-9+/_-]*[A-Z])(?=[A-Za-z0-9+/_-]*\d)[A-Za-z0-9+/_-]{20,}={0,2}"
    r"|[A-Za-z0-9+/]{10,}={1,2}(?!\w)"
)
"""Escapes, Morse code, and long strings of mixed letters and digits."""


class Rule(StrEnum):
    """What a creative is refused or held for."""

    DISGUISE = "disguise"
    ENCODED = "encoded_text"
    ROLE_TAG = "role_tag"
    ADDRESS = "address"
    PHONE = "phone_number"
    INSTRUCTION = "instruction"
    CONTACT = "contact"
    HEALTH_CLAIM = "claim_of_health"
    RETURN_CLAIM = "claim_of_return"
    AUTHORITY = "label_or_authority"
    IMPOSTOR = "impostor"
    ABOUT_ANSWER = "talk_of_the_answer"
    UNREAD = "unread_language"

    @property
    def is_refused(self) -> bool:
        """Whether a creative is refused for it; the others are held for review."""
        return self in _REFUSED


_REFUSED = frozenset({Rule.DISGUISE, Rule.ENCODED, Rule.ROLE_TAG, Rule.ADDRESS, Rule.PHONE, Rule.INSTRUCTION})
_REMEDIES = {
    Rule.DISGUISE: "write plain letters of one alphabet",
    Rule.ENCODED: "write words; encoded text is refused",
    Rule.ROLE_TAG: "remove role tags and markup",
    Rule.ADDRESS: "leave addresses out: the link leads to the landing page",
    Rule.PHONE: "leave phone numbers out",
    Rule.INSTRUCTION: "describe the offer itself; text that instructs a language model is refused",
    Rule.CONTACT: "held for review: it asks readers to get in touch elsewhere",
    Rule.HEALTH_CLAIM: "held for review: it claims an effect on health",
    Rule.RETURN_CLAIM: "held for review: it promises money or a return",
    Rule.AUTHORITY: "held for review: it poses as a label, an answer or an authority",
    Rule.IMPOSTOR: "held for review: it resembles another advertiser's title or name",
    Rule.ABOUT_ANSWER: "held for review: it talks of answers, readers, labels or competitors",
    Rule.UNREAD: "held for review: screening does not read its language",
}
_BY_LABEL = {
    "instruction": Rule.INSTRUCTION,
    "claim_health": Rule.HEALTH_CLAIM,
    "claim_return": Rule.RETURN_CLAIM,
    "authority": Rule.AUTHORITY,
    "authority_text": Rule.AUTHORITY,
    "contact": Rule.CONTACT,
    "about_answer": Rule.ABOUT_ANSWER,
}
_TOGETHER = {
    frozenset({"money", "certainty"}): Rule.RETURN_CLAIM,
    frozenset({"body", "soon"}): Rule.HEALTH_CLAIM,
}
"""Labels of phrases that are harmless alone, with what they are together."""
_PERCENT = re.compile("[%％]")


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that a field of a creative breaks."""

    place: str
    rule: Rule

    @property
    def remedy(self) -> str:
        """Return the sentence that the advertiser reads."""
        return _REMEDIES[self.rule]

    @property
    def note(self) -> str:
        """The finding as a stored creative lists it."""
        return f"{self.place}: {self.rule.value}"


def screen(title: str, text: str) -> tuple[Finding, ...]:
    """Return what is wrong with a creative as its advertiser wrote it, before any cleaning."""
    found = {Finding("title", rule) for rule in _broken(title, is_title=True)}
    found |= {Finding("text", rule) for rule in _broken(text, is_title=False)}
    return tuple(sorted(found, key=lambda f: (f.place, f.rule)))


def is_planted(creative: Creative) -> bool:
    """Whether a stored creative carries an address, a number, a role tag or an instruction.

    Such creatives were approved before screening existed. The test is the quick part of `screen`, and cached: it runs
    for the candidates of an answer.
    """
    return _carries(creative.title) or _carries(creative.text)


@lru_cache(maxsize=200_000)
def _carries(text: str) -> bool:
    if _has_address(text) or _ROLE.search(text) or has_digits(without_prices(text)):
        return True
    return "instruction" in _phrases().labels(plain(text))


def _broken(text: str, is_title: bool) -> set[Rule]:
    if not text.strip():
        return set()
    found = {rule for rule, test in _TESTS if test(text)}
    labels = frozenset[str]()
    for reading in readings(text):
        labels |= _phrases().labels(plain(_PERCENT.sub(" percent ", reading)))
        if _has_address(reading):
            found.add(Rule.ADDRESS)
    found |= {_BY_LABEL[label] for label in labels if label in _BY_LABEL}
    found |= {rule for together, rule in _TOGETHER.items() if together <= labels}
    return found if is_title or "authority_text" in labels else found - {Rule.AUTHORITY}


def _has_address(text: str) -> bool:
    return _ADDRESS.search(text) is not None


def _is_encoded(text: str) -> bool:
    return _ESCAPES.search(text) is not None or is_turned(text) or any(True for _ in decoded(text))


_TESTS: tuple[tuple[Rule, Callable[[str], bool]], ...] = (
    (Rule.DISGUISE, lambda text: bool(hidden_characters(text))),
    (Rule.ENCODED, _is_encoded),
    (Rule.CONTACT, lambda text: _DOTTED.search(text) is not None),
    (Rule.UNREAD, is_unread),
    (Rule.ROLE_TAG, lambda text: _ROLE.search(text) is not None),
    (Rule.ADDRESS, _has_address),
    (Rule.PHONE, has_phone),
)


@cache
def _phrases() -> Lexicon:
    source = resources.files("serving.campaigns.screening") / "data" / "phrases.yaml"
    blocks: dict[str, str] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return Lexicon({label: lines(block) for label, block in blocks.items()})
