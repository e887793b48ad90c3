"""Everyday questions with short answers and mentions of offers, written for this project to train a real assistant.

The built-in world asks in templates, which a small model can learn; these questions are as people type them. A third of
them have no commercial need, and a tenth cannot be understood without the turns before them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

import yaml

from mechanism.errors import InputError

HELD_OUT: Final = 8
TITLE: Final = "{title}"
"""Where the title stands in a mention; exactly once."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A sentence that offers the ad of this title in answer to one question; TITLE marks its place."""

    ad: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Question:
    """A question, a plain answer to it, and the mentions that fit; `turns` are the (role, text) pairs before it.

    `need` is the category of the question, None where no offer would help. A question with a need but without mentions
    is best answered without an ad.
    """

    text: str
    need: str | None
    turns: tuple[tuple[str, str], ...]
    answer: str
    mentions: tuple[Mention, ...] = ()


@cache
def everyday_questions() -> tuple[Question, ...]:
    """Return all questions, in the order of the files' names and lines."""
    data = resources.files("simulator") / "data"
    files = sorted((f for f in (data / "questions").iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return tuple(q for file in files for q in _read(file, data / "answers" / file.name))


def split_questions() -> tuple[list[Question], list[Question]]:
    """Return the questions to train on, and every eighth, which is held out."""
    every = everyday_questions()
    held_out = list(every[::HELD_OUT])
    return [question for number, question in enumerate(every) if number % HELD_OUT], held_out


def _read(questions: Traversable, answers: Traversable) -> list[Question]:
    """Join a file of questions with that of their answers.

    Raises:
        InputError: if an answer is missing or belongs to another question.
    """
    asked, answered = _entries(questions), _entries(answers)
    if len(asked) != len(answered):
        raise InputError(f"answers/{answers.name}", len(answered), f"give an answer to each of {len(asked)} questions")
    return [_question(a, b, f"simulator/data/*/{questions.name}") for a, b in zip(asked, answered, strict=True)]


def _question(asked: dict[str, Any], answered: dict[str, Any], place: str) -> Question:
    """Read one entry.

    Raises:
        InputError: if it has another form.
    """
    if "ask" not in asked or asked.keys() - {"ask", "need", "after"}:
        raise InputError(place, asked, "give ask, and need and after or not")
    if not {"ask", "answer"} <= answered.keys() <= {"ask", "answer", "mentions"} or asked["ask"] != answered["ask"]:
        raise InputError(place, answered, f"give ask, answer and mentions, for the question {asked['ask']!r}")
    mentions = tuple(Mention(m["ad"], m["say"]) for m in answered.get("mentions", ()))
    if wrong := [m for m in mentions if m.sentence.count(TITLE) != 1]:
        raise InputError(place, wrong[0].sentence, f"name the offer once, as {TITLE}")
    roles = ("user", "assistant") * len(asked.get("after", ()))
    turns = tuple(zip(roles, asked.get("after", ()), strict=False))
    return Question(asked["ask"], asked.get("need"), turns, answered["answer"], mentions)


def _entries(file: Traversable) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return entries
