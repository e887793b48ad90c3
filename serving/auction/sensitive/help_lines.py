"""Help lines by country for conversations about self-harm and acute danger (`data/help_lines.yaml`)."""

from __future__ import annotations

from functools import cache
from importlib import resources

import msgspec
import yaml

from serving.auction.sensitive.rules import languages_of
from serving.auction.sensitive.topics import Topic
from serving.lexicon import plain


class HelpLine(msgspec.Struct, frozen=True):
    """A help line, and the number of the emergency services, of one country."""

    name: str
    number: str
    emergency: str


class HelpLines(msgspec.Struct, frozen=True):
    """The data file: texts by language, lines by country."""

    directory: str
    countries: dict[str, HelpLine]
    texts: dict[str, str]
    danger_texts: dict[str, str]
    elsewhere: dict[str, str]


def help_text(topic: Topic, country: str, message: str) -> str:
    """Return the paragraph that ends an answer on an acute topic, in the language of the reader's message."""
    lines = _packaged()
    spoken = languages_of(plain(message))
    language = "zh" if "zh" in spoken else spoken[0]
    line = lines.countries.get(country.strip().upper())
    if line is None:
        return lines.elsewhere[language].format(directory=lines.directory)
    text = lines.danger_texts if topic is Topic.DANGER else lines.texts
    return text[language].format(name=line.name, number=line.number, emergency=line.emergency)


@cache
def _packaged() -> HelpLines:
    source = resources.files("serving.auction.sensitive") / "data" / "help_lines.yaml"
    return msgspec.convert(yaml.safe_load(source.read_text(encoding="utf-8")), HelpLines)
