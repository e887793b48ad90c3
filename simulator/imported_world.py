"""A world made of imported ads and queries, with the interface of the built-in `simulator.world.World`.

Real data has no users and no bids: profiles are synthetic (interests are topics, a hash assigns each query to a user)
and bids are drawn for each context. Reading files is left to `simulator.importers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mechanism.errors import InputError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Ad, AdId, Candidate, Context, Profile
from simulator.importers.dataset import ImportedAnswer, ImportedData, ImportedQuery, match_key, split_queries
from simulator.questions import split_questions
from simulator.world import AGES, GENDERS, OCCUPATIONS, PLACES, Query

PROFILES_PER_TOPIC = 8
HIGHEST_POINTS = 100


class ImportedWorld:
    """Imported ads, synthetic profiles, and queries split into train and test by a hash of their text.

    `relevant` maps a query's id to the ads labelled as fitting it, `answers` to the answers that the data holds. With
    `labelled_only` queries without a label are left out of both splits; they stay in the data. `plain` is the share of
    everyday questions without a need that the training queries get: what is asked without a need needs no ad.
    """

    def __init__(
        self, data: ImportedData, test_share: float = 0.2, *, labelled_only: bool = False, plain: float = 0.0
    ) -> None:
        if not data.ads:
            raise InputError("catalogue", "no ad", "import at least one valid ad; the report names each refused row")
        self.ads: tuple[Ad, ...] = data.ads
        topics = sorted({ad.category for ad in data.ads if ad.category} | {q.topic for q in data.queries if q.topic})
        self._by_topic = {t: [i for i, ad in enumerate(self.ads) if ad.category == t] for t in topics}
        self._number: Mapping[AdId, int] = {ad.id: i for i, ad in enumerate(self.ads)}
        asked = [q for q in data.queries if q.relevant or not labelled_only]
        drawn = synthetic_profiles(topics)
        train, test = split_queries(asked, test_share)
        plain_queries = _plain_queries(len(train), plain)
        self._named = {q.profile: replace(_pick(drawn, q.profile), id=q.profile) for q in asked if q.profile}
        self.profiles: tuple[Profile, ...] = (*drawn, *self._named.values())
        self._fitting = {t: [p for p in drawn if t in p.interests] for t in topics}
        self.relevant: Mapping[str, tuple[AdId, ...]] = {q.id: q.relevant for q in (*asked, *plain_queries)}
        self.answers: Mapping[str, tuple[ImportedAnswer, ...]] = {q.id: q.answers for q in asked if q.answers}
        self.train_queries: tuple[Query, ...] = self._queries((*train, *plain_queries))
        self.test_queries: tuple[Query, ...] = self._queries(test)

    def _queries(self, imported: Iterable[ImportedQuery]) -> tuple[Query, ...]:
        return tuple(Query(q.id, q.text, self._asker(q), q.topic) for q in imported)

    def _asker(self, query: ImportedQuery) -> Profile:
        """Return the user that the data names, else a synthetic one with the query's topic among the interests."""
        if query.profile:
            return self._named[query.profile]
        return _pick(self._fitting.get(query.topic) or self.profiles, query.id)

    def sample_context(self, query: Query, rng: np.random.Generator, candidates: int = 20) -> Context:
        """Draw a context with fresh bids, uniform on {1..100} points, in the order of the catalogue.

        It holds the ads labelled as relevant; half of the other places are for ads of the same topic, the rest for
        random ones. No title occurs twice. `candidates` of len(self.ads) or more includes every ad (of distinct title).
        """
        same = rng.permutation(self._by_topic.get(query.category, []))
        others = rng.permutation(len(self.ads))
        chosen: dict[str, int] = {}
        labelled = [self._number[ad_id] for ad_id in self.relevant.get(query.id, ())]
        self._fill(chosen, labelled, candidates)
        self._fill(chosen, same, len(chosen) + (candidates - len(chosen) + 1) // 2)
        self._fill(chosen, others, candidates)
        bids = rng.integers(1, HIGHEST_POINTS + 1, size=len(chosen)) * MICROS_PER_POINT
        pairs = tuple(Candidate(self.ads[i], int(b)) for i, b in zip(sorted(chosen.values()), bids, strict=True))
        return Context(query.id, query.text, pairs, query.profile, category=query.category)

    def _fill(self, chosen: dict[str, int], numbers: Iterable[int], size: int) -> None:
        for number in numbers:
            if len(chosen) >= size:
                return
            chosen.setdefault(match_key(self.ads[number].title), int(number))


def _plain_queries(queries: int, share: float) -> list[ImportedQuery]:
    """Return training questions without a need, evenly spread, that are `share` of the whole with `queries` others.

    Raises:
        InputError: if there are fewer such questions.
    """
    training, _ = split_questions()
    plain = [q for q in training if q.need is None and not q.turns]
    count = round(queries * share / (1 - share))
    if count > len(plain):
        most = len(plain) / (len(plain) + queries)
        raise InputError("world.plain", share, f"there are {len(plain)} questions without a need: {most:.2f} at most")
    return [ImportedQuery(plain[i * len(plain) // count].text, "") for i in range(count)]


def synthetic_profiles(topics: list[str]) -> tuple[Profile, ...]:
    """Build eight users per topic, each with that topic and up to two others as interests. No randomness."""
    profiles = []
    for place, topic in enumerate(topics or [""]):
        for number in range(PROFILES_PER_TOPIC):
            mark = f"{topic}/{number}"
            second = topics[(place + 1 + number) % len(topics)] if topics else ""
            third = topics[_hash(mark) % len(topics)] if topics else ""
            seen = topics[_hash(mark + "/seen") % len(topics)] if topics else ""
            profiles.append(
                Profile(
                    id=f"r{place:02d}-{number}",
                    age=AGES[_hash(mark + "/age") % len(AGES)],
                    gender=GENDERS[_hash(mark + "/gender") % len(GENDERS)],
                    occupation=OCCUPATIONS[_hash(mark + "/occupation") % len(OCCUPATIONS)],
                    location=PLACES[_hash(mark + "/place") % len(PLACES)],
                    interests=tuple(dict.fromkeys(t for t in (topic, second, third) if t)),
                    history=(f"read about {seen}",) if seen else (),
                )
            )
    return tuple(profiles)


def _pick(profiles: Sequence[Profile], text: str) -> Profile:
    return profiles[_hash(text) % len(profiles)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
