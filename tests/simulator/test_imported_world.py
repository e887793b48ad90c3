"""The imported world gives trainers what the built-in one gives, from imported ads and queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechanism.errors import InputError
from mechanism.prompt import MICROS_PER_POINT
from mechanism.types import Ad
from simulator.imported_world import ImportedWorld
from simulator.importers import ImportedData, ImportedQuery, ImportReport
from simulator.world import World

TOPICS = ("banking", "gaming", "shoes")
ADS = tuple(Ad(f"{t[:3]}-{i:03d}", f"{t.title()} Ad {i}", "text", "x", t) for t in TOPICS for i in range(20))
QUERIES = tuple(
    ImportedQuery(f"{t} question {i}", t, (f"{t[:3]}-{i % 20:03d}",) if i % 2 else ())
    for t in TOPICS
    for i in range(40)
)
REPORT = ImportReport({}, ())


def world(ads: tuple[Ad, ...] = ADS, queries: tuple[ImportedQuery, ...] = QUERIES, **options: Any) -> ImportedWorld:
    return ImportedWorld(ImportedData(ads, queries, REPORT), **options)


@given(seed=st.integers(0, 2**32), number=st.integers(0, 60), candidates=st.integers(1, 60))
def test_a_context_has_the_labelled_ads_the_topic_and_others(seed: int, number: int, candidates: int) -> None:
    own = world()
    query = own.train_queries[number % len(own.train_queries)]
    context = own.sample_context(query, np.random.default_rng(seed), candidates)
    ids = [c.ad.id for c in context.candidates]
    assert len(ids) == len(set(ids)) == candidates
    assert set(own.relevant[query.id]) <= set(ids)
    same = sum(c.ad.category == query.category for c in context.candidates)
    assert same >= min(20, candidates // 2)
    points = [c.bid / MICROS_PER_POINT for c in context.candidates]
    assert all(p == int(p) and 1 <= p <= 100 for p in points)
    assert (context.query, context.profile, context.category) == (query.text, query.profile, query.category)


def test_bids_and_company_are_fresh_each_time_but_seeded() -> None:
    own = world()
    query = own.test_queries[0]
    one, other = (own.sample_context(query, np.random.default_rng(s)) for s in (1, 2))
    assert one != other
    assert one == own.sample_context(query, np.random.default_rng(1))
    bids = [c.bid for s in range(200) for c in own.sample_context(query, np.random.default_rng(s)).candidates]
    assert min(bids) == MICROS_PER_POINT
    assert max(bids) == 100 * MICROS_PER_POINT
    assert np.mean(bids) == pytest.approx(50.5 * MICROS_PER_POINT, rel=0.03)


def test_queries_split_without_overlap_and_are_asked_by_interested_users() -> None:
    own = world()
    assert len(own.train_queries) + len(own.test_queries) == len(QUERIES)
    assert not {q.id for q in own.train_queries} & {q.id for q in own.test_queries}
    assert own.test_queries
    for query in (*own.train_queries, *own.test_queries):
        assert query.category in query.profile.interests
        assert query.profile in own.profiles
    assert own.profiles == world().profiles
    assert len({p.id for p in own.profiles}) == len(own.profiles)


def test_unlabelled_queries_can_be_left_out() -> None:
    own = world(labelled_only=True)
    assert len(own.train_queries) + len(own.test_queries) == len(QUERIES) // 2
    assert all(own.relevant[q.id] for q in own.train_queries)


@settings(max_examples=20)
@given(share=st.floats(0, 0.75))
def test_training_gets_a_share_of_questions_without_a_need(share: float) -> None:
    own, bare = world(plain=share), world()
    plain = [q for q in own.train_queries if not q.category]
    assert len(plain) / len(own.train_queries) == pytest.approx(share, abs=0.01)
    assert len({q.id for q in own.train_queries}) == len(own.train_queries)
    assert all(not own.relevant[q.id] for q in plain)
    assert own.test_queries == bare.test_queries
    assert [q for q in own.train_queries if q.category] == list(bare.train_queries)


def test_more_questions_without_a_need_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match=r"world\.plain.*at most"):
        world(plain=0.99)


def test_users_named_in_the_data_keep_their_name_and_are_one_user() -> None:
    queries = (ImportedQuery("a", "gaming", profile="ann"), ImportedQuery("b", "shoes", profile="ann"))
    own = world(queries=queries)
    asked = (*own.train_queries, *own.test_queries)
    assert {q.profile.id for q in asked} == {"ann"}
    assert len({q.profile for q in asked}) == 1
    assert asked[0].profile in own.profiles


def test_one_title_is_offered_once_in_a_context() -> None:
    twins = (*ADS, *(Ad(f"twin-{i}", "BANKING ad 3", "text", "y", "gaming") for i in range(30)))
    own = world(ads=twins)
    context = own.sample_context(own.train_queries[0], np.random.default_rng(0), len(twins))
    titles = [c.ad.title.casefold() for c in context.candidates]
    assert len(titles) == len(set(titles)) == len(ADS)


def test_a_catalogue_without_topics_still_makes_a_world() -> None:
    bare = tuple(Ad(f"a{i}", f"Title {i}", "text", "x") for i in range(5))
    own = world(ads=bare, queries=(ImportedQuery("hello", ""),))
    query = (*own.train_queries, *own.test_queries)[0]
    assert len(own.sample_context(query, np.random.default_rng(0)).candidates) == 5
    with pytest.raises(InputError, match="catalogue"):
        world(ads=())


def test_it_has_what_trainers_use_of_the_built_in_world() -> None:
    built_in, own = World(profiles=2), world()
    for name in ("ads", "profiles", "train_queries", "test_queries"):
        assert type(getattr(own, name)) is type(getattr(built_in, name)) is tuple
    assert type(own.train_queries[0]) is type(built_in.train_queries[0])
