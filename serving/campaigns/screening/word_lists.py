"""The lists of words in `data/words.yaml`."""

from __future__ import annotations

from functools import cache
from importlib import resources

import yaml


@cache
def word_list(name: str) -> frozenset[str]:
    """Return a list by its name, one of those in the file."""
    return _packaged()[name]


@cache
def _packaged() -> dict[str, frozenset[str]]:
    source = resources.files("serving.campaigns.screening") / "data" / "words.yaml"
    lists: dict[str, str] = yaml.safe_load(source.read_text(encoding="utf-8"))
    return {name: frozenset(words.split()) for name, words in lists.items()}
