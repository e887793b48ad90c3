"""Invented brands: titles, ids, needs and descriptions that no catalogue holds, like those of new advertisers.

Training draws them from syllables and `WORDS`; how a model treats titles that are new to it is measured with
`HELD_OUT_WORDS`, which no training text contains. Which ads are renamed is left to the trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources

import numpy as np
import yaml

from mechanism.types import Ad, Candidate, Context


def _lists() -> Mapping[str, tuple[str, ...]]:
    text = (resources.files("simulator") / "data" / "brands.yaml").read_text(encoding="utf-8")
    return {name: tuple(values) for name, values in yaml.safe_load(text).items()}


_LISTS = _lists()
ONSETS, VOWELS, CODAS = (_LISTS[name] for name in ("onsets", "vowels", "codas"))
WORDS, HELD_OUT_WORDS = (_LISTS[name] for name in ("words", "held_out_words"))
TAILS, THINGS, KINDS = (_LISTS[name] for name in ("tails", "things", "kinds"))


def coined(rng: np.random.Generator, most: int = 2) -> str:
    """Coin a word of one to `most` syllables."""
    count = int(rng.integers(1, most + 1))
    parts = (ONSETS, VOWELS, CODAS)
    word = "".join(part[rng.integers(len(part))] for _ in range(count) for part in parts)
    return word if len(word) > 2 else word + "lo"


def brand_title(rng: np.random.Generator, need: str = "", words: Sequence[str] = WORDS) -> str:
    """Invent a title such as `Zorvel`, `Birch & Moss` or `Riverspark Kites`; it may name the need it serves."""
    word = words[int(rng.integers(len(words)))]
    name = (
        coined(rng),
        coined(rng),
        coined(rng).upper()[:4],
        word,
        word + words[int(rng.integers(len(words)))],
        word + coined(rng, 1),
        coined(rng, 1) + word,
        f"{word} {coined(rng)}",
    )[rng.integers(8)]
    name = " ".join(part[0].upper() + part[1:] for part in name.split())
    serves = " ".join(part.capitalize() for part in need.split())
    tail = TAILS[rng.integers(len(TAILS))].capitalize()
    endings = (
        "",
        "",
        serves,
        serves,
        tail,
        tail,
        f"{tail} {serves}",
        "& " + coined(rng).capitalize(),
        str(rng.integers(1, 1000)),
    )
    title = f"{name} {endings[rng.integers(len(endings))]}".strip()
    return title.lower() if rng.random() < 0.05 else title


def brand_id(rng: np.random.Generator, title: str) -> str:
    """Invent an id of one of the usual forms: `falcon-1`, `cr_8f3a2c`, `B17`, `40213`."""
    number, letters = int(rng.integers(1, 10 ** int(rng.integers(1, 6)))), "abcdefghijkmnpqrstuvwxyz"
    slug = "-".join("".join(c for c in part if c.isalnum()) for part in title.lower().split() if part != "&")
    shapes = (
        f"{slug.split('-')[0]}-{number}",
        slug,
        f"cr_{number:06x}",
        f"{number}",
        f"{letters[rng.integers(len(letters))].upper()}{number}",
        f"ad-{number}",
    )
    return shapes[rng.integers(len(shapes))]


def new_need(rng: np.random.Generator) -> str:
    """Invent a need that the built-in world does not have: `kites`, `quiet zorvels`."""
    thing = THINGS[rng.integers(len(THINGS))] if rng.random() < 0.4 else coined(rng, 2) + "s"
    first = ("", "", "", KINDS[rng.integers(len(KINDS))], WORDS[rng.integers(len(WORDS))])[rng.integers(5)]
    return f"{first} {thing}".strip()


def description(rng: np.random.Generator, need: str, aspect: str) -> str:
    """Invent an advertiser's description of an ad for a need."""
    kind = KINDS[rng.integers(len(KINDS))]
    forms = (
        f"{need} for {aspect}",
        f"{kind} {need}",
        f"{kind} {need} for {aspect}",
        f"the {need} that suit {aspect}",
        f"{need} at fair prices",
        f"{need}, {kind} and made for {aspect}",
    )
    return forms[rng.integers(len(forms))]


def renamed(
    context: Context,
    rng: np.random.Generator,
    share: float = 1.0,
    words: Sequence[str] = WORDS,
    only: frozenset[str] | None = None,
) -> Context:
    """Return the context with invented titles and ids for a share of its candidates, or for the ids in `only`.

    Texts and bids stay; no two titles or ids are equal.
    """
    candidates: list[Candidate] = []
    for candidate in context.candidates:
        chosen = rng.random() < share if only is None else candidate.ad.id in only
        candidates.append(
            Candidate(_renamed(candidate.ad, context, candidates, rng, words), candidate.bid) if chosen else candidate
        )
    return replace(context, candidates=tuple(candidates))


def _renamed(
    ad: Ad, context: Context, before: Sequence[Candidate], rng: np.random.Generator, words: Sequence[str]
) -> Ad:
    taken = {c.ad.title for c in (*context.candidates, *before)} | {c.ad.id for c in (*context.candidates, *before)}
    while True:
        title = brand_title(rng, ad.category, words)
        own = brand_id(rng, title)
        if title not in taken and own not in taken:
            return replace(ad, id=own, title=title, advertiser=title.split()[0])
