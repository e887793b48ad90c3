"""The built-in world: its sizes are the paper's, and a seed decides everything in it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mechanism.markers import parse, render_marker
from mechanism.prompt import MICROS_PER_POINT
from mechanism.sanitize import clean_text, clean_title
from simulator.language import LEADS, STYLES, Woven, compose
from simulator.world import FOLLOWING, TOP_RELEVANT, TWO_NEEDED, World


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=0)


def test_sizes(world: World) -> None:
    assert (len(world.ads), len(world.categories), len(world.profiles)) == (100, 50, 3_000)
    assert (len(world.train_queries), len(world.test_queries)) == (12_000, 3_000)
    assert len({q.id for q in (*world.train_queries, *world.test_queries)}) == 15_000
    assert len({ad.id for ad in world.ads}) == len({ad.title for ad in world.ads}) == 100
    assert Counter(ad.category for ad in world.ads) == {c.name: 2 for c in world.categories}


def test_every_profile_asks_four_training_questions_and_one_for_testing(world: World) -> None:
    asked = Counter(q.profile.id for q in world.train_queries)
    assert set(asked.values()) == {4}
    assert [q.profile for q in world.test_queries] == list(world.profiles)


def test_profiles_are_complete_and_name_real_categories(world: World) -> None:
    names = {c.name for c in world.categories}
    for profile in world.profiles:
        assert profile.age
        assert profile.gender
        assert profile.occupation
        assert profile.location
        assert 2 <= len(profile.interests) <= 3
        assert set(profile.interests) <= names
        assert len(set(profile.interests)) == len(profile.interests)
        assert len(profile.history) == 2


def test_questions_follow_the_users_interests_and_name_their_category_now_or_earlier(world: World) -> None:
    queries = world.train_queries
    said = ((q, " ".join([*(text for _, text in q.turns), q.text]).lower()) for q in queries)
    assert all(q.category in text and q.also in text for q, text in said)
    own = sum(q.category in q.profile.interests for q in queries) / len(queries)
    assert 0.58 < own < 0.68  # 0.6, and a few that are about an interest by chance
    assert len({q.category for q in queries}) == 50


def test_shares_of_the_questions_ask_for_two_needs_of_one_domain_or_follow_a_turn(world: World) -> None:
    queries, domain = world.train_queries, {c.name: c.domain for c in world.categories}
    two, following = [q for q in queries if q.also], [q for q in queries if q.turns]
    assert len(two) / len(queries) == pytest.approx(TWO_NEEDED, abs=0.02)
    assert len(following) / len(queries) == pytest.approx(FOLLOWING, abs=0.02)
    assert all(q.also != q.category and domain[q.also] == domain[q.category] for q in two)
    assert all([role for role, _ in q.turns] == ["user", "assistant"] and not q.also for q in following)
    # Most of them make sense only after the earlier turn.
    assert np.mean([q.category not in q.text.lower() for q in following]) > 0.5


def test_a_seed_decides_the_world_and_another_makes_another() -> None:
    first, again, other = World(3, profiles=40), World(3, profiles=40), World(4, profiles=40)
    assert first.profiles == again.profiles
    assert first.train_queries == again.train_queries
    assert first.test_queries == again.test_queries
    assert first.profiles != other.profiles
    assert [q.text for q in first.train_queries] != [q.text for q in other.train_queries]
    assert first.ads == other.ads  # advertisers stay, users differ


def test_a_context_holds_twenty_distinct_candidates_in_catalogue_order(world: World) -> None:
    rng, order = np.random.default_rng(0), {ad.id: i for i, ad in enumerate(world.ads)}
    for query in world.test_queries[:30]:
        context = world.sample_context(query, rng)
        places = [order[c.ad.id] for c in context.candidates]
        assert len(places) == 20
        assert places == sorted(set(places))
        assert {order[world.ads[i].id] for i in world.most_relevant(query, TOP_RELEVANT)} <= set(places)
        assert (context.id, context.query, context.profile) == (query.id, query.text, query.profile)
        assert context.turns == query.turns


def test_bids_are_whole_points_from_one_to_a_hundred(world: World) -> None:
    rng = np.random.default_rng(1)
    bids = [b for q in world.test_queries[:300] for b in world.sample_context(q, rng, 100).bids().values()]
    points = {b // MICROS_PER_POINT for b in bids}
    assert all(b % MICROS_PER_POINT == 0 for b in bids)
    assert points == set(range(1, 101))
    assert np.mean(bids) / MICROS_PER_POINT == pytest.approx(50.5, abs=1)


def test_all_ads_take_part_when_asked(world: World) -> None:
    for count in (100, 1_000):
        context = world.sample_context(world.test_queries[0], np.random.default_rng(0), count)
        assert tuple(c.ad for c in context.candidates) == world.ads


@pytest.mark.parametrize("count", [0, 1, 4, 10, 99])
def test_any_number_of_candidates_is_met_exactly(world: World, count: int) -> None:
    context = world.sample_context(world.test_queries[0], np.random.default_rng(0), count)
    assert len({c.ad.id for c in context.candidates}) == count


def test_contexts_follow_their_generator(world: World) -> None:
    query = world.test_queries[5]
    first, again, other = (world.sample_context(query, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first == again
    assert first.bids() != other.bids()


def test_the_relevant_ads_serve_the_need(world: World) -> None:
    queries = world.test_queries[:150]
    served = sum(any(world.ads[i].category == q.category for i in world.most_relevant(q, 10)) for q in queries)
    assert served / len(queries) > 0.9
    for query in queries[:20]:
        assert len(set(world.most_relevant(query, 10))) == 10


def test_titles_and_texts_of_the_catalogue_are_clean(world: World) -> None:
    for ad in world.ads:
        assert clean_title(ad.title, ad.id) == ad.title
        assert clean_text(ad.text, ad.id) == ad.text


@pytest.mark.parametrize("style", list(STYLES))
def test_composed_answers_carry_their_ads_and_parse(world: World, style: str) -> None:
    category, rng = world.categories[0], np.random.default_rng(0)
    for count in (0, 1, 2):
        woven = [Woven(ad, category.name, render_marker(ad), style) for ad in category.ads[:count]]
        for aspect in category.aspects:
            answer = parse(compose(category.name, aspect, category.advice, woven, rng), world.ads)
            assert answer.faults == ()
            assert answer.shown() == tuple(w.ad.id for w in woven)
            assert "{" not in answer.text
            assert sum(advice in answer.text for advice in category.advice) == (1 if woven else 2)


def test_leads_come_first(world: World) -> None:
    category, rng = world.categories[3], np.random.default_rng(0)
    heads = {lead.split("{")[0] for lead in LEADS}
    for _ in range(20):
        text = compose(category.name, category.aspects[0], category.advice, [], rng)
        assert any(text.startswith(head) for head in heads if head) or text.lower().startswith(category.name)
