"""Everyday questions and ways to mention an offer, written for this project: what a real assistant is trained on.

The built-in world asks in templates, which a small model can learn; these questions are as people type them. A third of
them have no commercial need, and a tenth cannot be understood without the turns before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from mechanism.errors import InputError


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the category whose offers would help (None: none would), and the (role, text) turns before it."""

    text: str
    need: str | None
    turns: tuple[tuple[str, str], ...] = ()


@cache
def everyday_questions() -> tuple[Question, ...]:
    """Return all questions, in the order of the files' names and lines.

    Raises:
        InputError: if an entry is not of the form {ask, need, after}.
    """
    folder = resources.files("simulator") / "data" / "questions"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    found: list[Question] = []
    for file in files:
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
            if not isinstance(entry, dict) or "ask" not in entry or entry.keys() - {"ask", "need", "after"}:
                raise InputError(f"simulator/data/questions/{file.name}", entry, "give ask, and need and after or not")
            roles = ("user", "assistant") * len(entry.get("after", ()))
            turns = tuple(zip(roles, entry.get("after", ()), strict=False))
            found.append(Question(entry["ask"], entry.get("need"), turns))
    return tuple(found)


@cache
def mentions() -> tuple[str, ...]:
    """Return sentences that mention an offer, with {title} and, in most of them, {offer} or {need} to fill in."""
    text = (resources.files("simulator") / "data" / "mentions.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text))
