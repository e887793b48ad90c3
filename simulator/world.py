"""The built-in world: advertisers, users and their queries. Deterministic by seed.

All texts are fixed or fill templates. 100 invented ads in 50 categories (`data/catalogue.yaml`), 3,000 profiles with
five queries each: four for training and one for testing (12,000 / 3,000), as in arXiv 2512.10551, section 5. Some
queries ask for two needs, some follow an earlier turn. Every context gets fresh bids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import numpy as np
import yaml
from numpy.typing import NDArray

from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Ad, Candidate, Context, Profile
from simulator.language import FOLLOW_UPS, QUERY_TEMPLATES, TWO_NEEDS, compose, fill

AGES = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
GENDERS = ("female", "male", "not stated")
OCCUPATIONS = (
    "nurse",
    "teacher",
    "software developer",
    "student",
    "carpenter",
    "shop assistant",
    "accountant",
    "driver",
    "cook",
    "designer",
    "retired",
    "engineer",
    "journalist",
    "farmer",
    "lawyer",
)
PLACES = (
    "a coastal town",
    "a mountain village",
    "a large city",
    "a suburb",
    "a university town",
    "an old port",
    "the countryside",
    "an industrial city",
    "an island",
    "a border town",
)

PROFILES = 3_000
QUERIES_PER_PROFILE = 5
TWO_NEEDED, FOLLOWING = 0.2, 0.15
"""Shares of the queries that ask for two needs of one domain, and that follow an earlier turn about the same need."""
TOP_RELEVANT = 10
"""Number of a context's candidates that are its most relevant ads; the others are random."""


@dataclass(frozen=True, slots=True)
class Category:
    """One need of users: its name, aspects that users ask about, ad-free advice, and the ads that serve it."""

    name: str
    domain: str
    aspects: tuple[str, ...]
    advice: tuple[str, ...]
    ads: tuple[Ad, ...]


@cache
def builtin_categories() -> tuple[Category, ...]:
    """Read the 50 categories in file order; ad ids are `A1` to `A100` in the same order."""
    rows = yaml.safe_load((resources.files("simulator") / "data" / "catalogue.yaml").read_text(encoding="utf-8"))
    categories: list[Category] = []
    for row in rows:
        first = 1 + sum(len(c.ads) for c in categories)
        ads = tuple(
            Ad(
                id=f"A{first + i}",
                title=title,
                text=text,
                advertiser=title.split()[0],
                category=row["category"],
                landing_url=f"https://{title.split()[0].lower()}.example/{row['category'].replace(' ', '-')}",
            )
            for i, (title, text) in enumerate(row["ads"])
        )
        categories.append(Category(row["category"], row["domain"], tuple(row["aspects"]), tuple(row["advice"]), ads))
    return tuple(categories)


@dataclass(frozen=True, slots=True)
class Query:
    """One query x of one user with profile h, after the earlier `turns` of the conversation.

    `category` is the need that it asks for, `also` a second one or "".
    """

    id: str
    text: str
    profile: Profile
    category: str
    also: str = ""
    turns: tuple[tuple[str, str], ...] = ()


class World:
    """The world of one seed. Cheap to build: texts only; relevance is computed by the frozen encoder on first use."""

    def __init__(self, seed: int = 0, profiles: int = PROFILES) -> None:
        self.categories = builtin_categories()
        self.ads: tuple[Ad, ...] = tuple(ad for c in self.categories for ad in c.ads)
        rng = np.random.default_rng([seed, 20251210])
        self.profiles: tuple[Profile, ...] = tuple(self._profile(i, rng) for i in range(profiles))
        queries = [self._queries(p, rng) for p in self.profiles]
        self.train_queries: tuple[Query, ...] = tuple(q for own in queries for q in own[:-1])
        self.test_queries: tuple[Query, ...] = tuple(own[-1] for own in queries)

    def _profile(self, number: int, rng: np.random.Generator) -> Profile:
        liked = rng.choice(len(self.categories), size=int(rng.integers(2, 4)), replace=False)
        seen = rng.choice(len(self.categories), size=2, replace=False)
        return Profile(
            id=f"u{number:04d}",
            age=AGES[rng.integers(len(AGES))],
            gender=GENDERS[rng.integers(len(GENDERS))],
            occupation=OCCUPATIONS[rng.integers(len(OCCUPATIONS))],
            location=PLACES[rng.integers(len(PLACES))],
            interests=tuple(self.categories[i].name for i in liked),
            history=tuple(f"read about {self.categories[i].name}" for i in seen),
        )

    def _queries(self, profile: Profile, rng: np.random.Generator) -> list[Query]:
        return [self._query(f"{profile.id}-{number}", profile, rng) for number in range(QUERIES_PER_PROFILE)]

    def _query(self, query_id: str, profile: Profile, rng: np.random.Generator) -> Query:
        category = self._asked_category(profile, rng)
        aspect = category.aspects[rng.integers(len(category.aspects))]
        kind = rng.random()
        if kind < TWO_NEEDED:
            related = [c for c in self.categories if c.domain == category.domain and c is not category]
            other = related[rng.integers(len(related))].name
            text = fill(TWO_NEEDS[rng.integers(len(TWO_NEEDS))], category.name, aspect, other=other)
            return Query(query_id, text, profile, category.name, other)
        if kind < TWO_NEEDED + FOLLOWING:
            earlier = category.aspects[rng.integers(len(category.aspects))]
            asked = fill(QUERY_TEMPLATES[rng.integers(len(QUERY_TEMPLATES))], category.name, earlier)
            turns = (("user", asked), ("assistant", compose(category.name, earlier, category.advice, (), rng)))
            text = fill(FOLLOW_UPS[rng.integers(len(FOLLOW_UPS))], category.name, aspect)
            return Query(query_id, text, profile, category.name, turns=turns)
        text = fill(QUERY_TEMPLATES[rng.integers(len(QUERY_TEMPLATES))], category.name, aspect)
        return Query(query_id, text, profile, category.name)

    def _asked_category(self, profile: Profile, rng: np.random.Generator) -> Category:
        """Choose the category of a query: three in five are an interest of the user, the others any need."""
        if rng.random() < 0.6:
            name = profile.interests[rng.integers(len(profile.interests))]
            return next(c for c in self.categories if c.name == name)
        return self.categories[rng.integers(len(self.categories))]

    @cached_property
    def _ad_vectors(self) -> NDArray[np.float32]:
        from inference.encoder import shared_encoder

        return shared_encoder().encode([f"{ad.title}: {ad.text}" for ad in self.ads])

    def most_relevant(self, query: Query, count: int) -> list[int]:
        """Return the indices of the ads nearest to the query (two fifths of `count`) and to the user's interests."""
        from inference.encoder import shared_encoder

        asked = " ".join([*(text for role, text in query.turns if role == "user"), query.text])
        vectors = shared_encoder().encode([asked, ", ".join(query.profile.interests)])
        cosines = self._ad_vectors @ vectors.T
        by_query = list(np.argsort(-cosines[:, 0], kind="stable")[: count * 2 // 5])
        by_taste = [i for i in np.argsort(-cosines[:, 1], kind="stable") if i not in by_query][: count - count * 2 // 5]
        return [int(i) for i in (*by_query, *by_taste)]

    def sample_context(self, query: Query, rng: np.random.Generator, candidates: int = 20) -> Context:
        """Draw a context with fresh bids, uniform on {1..100} points, in the order of the catalogue.

        It holds the most relevant ads among random others; `candidates` of len(self.ads) or more includes every ad.
        """
        total = len(self.ads)
        if candidates >= total:
            chosen = list(range(total))
        else:
            near = self.most_relevant(query, min(TOP_RELEVANT, candidates))
            others = rng.permutation([i for i in range(total) if i not in near])[: candidates - len(near)]
            chosen = sorted([*near, *(int(i) for i in others)])
        bids = rng.integers(1, 101, size=len(chosen)) * MICROS_PER_POINT
        pairs = tuple(Candidate(self.ads[i], int(b)) for i, b in zip(chosen, bids, strict=True))
        return Context(query.id, query.text, pairs, query.profile, query.turns, query.category)
